// The inbox: many producers, letters of each in order, nothing lost, full means full, slots are nobody else's.
#include "comm/shm/inbox.hpp"

#include <memory>
#include <thread>
#include <vector>

#include "check.hpp"

using namespace pyparallel::shm;

namespace {

std::unique_ptr<Inbox> fresh() { return std::make_unique<Inbox>(); }

void letters_of_each_producer_come_in_order(int producers, std::uint32_t letters) {
  const auto inbox = fresh();
  std::vector<std::thread> threads;
  for (int p = 0; p < producers; ++p)
    threads.emplace_back([&, p] {
      for (std::uint32_t i = 0; i < letters;) {
        const Letter letter{LetterKind::kSmall, {}, static_cast<std::uint16_t>(p), i, i * 3, 0, i, {1, 2, i}};
        if (put(*inbox, letter))
          ++i;
        else
          std::this_thread::yield();
      }
    });
  std::vector<std::uint32_t> next(static_cast<std::size_t>(producers), 0);
  for (std::uint64_t head = 0; head < static_cast<std::uint64_t>(producers) * letters;) {
    Letter letter;
    if (!take(*inbox, head, letter)) {
      std::this_thread::yield();
      continue;
    }
    ++head;
    CHECK_EQUAL(letter.id, next[letter.source]);
    CHECK_EQUAL(letter.reply, letter.id * 3);
    CHECK_EQUAL(letter.place.offset, letter.id);
    ++next[letter.source];
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(inbox->doorbell.value.load(), static_cast<std::uint32_t>(producers) * letters);
}

void full_means_full() {
  const auto inbox = fresh();
  Letter letter{};
  for (std::uint32_t lap = 0; lap < 3; ++lap) {
    for (std::uint32_t i = 0; i < kInboxCells; ++i) CHECK_EQUAL(put(*inbox, letter), true);
    CHECK_EQUAL(put(*inbox, letter), false);
    for (std::uint32_t i = 0; i < kInboxCells; ++i) CHECK_EQUAL(take(*inbox, lap * kInboxCells + i, letter), true);
    CHECK_EQUAL(take(*inbox, (lap + 1) * kInboxCells, letter), false);
  }
}

void slots_are_taken_once() {
  const auto inbox = fresh();
  std::atomic<int> taken{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        const int slot = take_slot(*inbox);
        if (slot < 0) continue;
        inbox->contents[slot][0] = static_cast<char>(slot);  // a race if two hold it
        ++taken;
        give_slot(*inbox, slot);
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(taken.load(), 2000);
  for (int i = 0; i < kInboxSlots; ++i) CHECK_EQUAL(take_slot(*inbox), i);
  CHECK_EQUAL(take_slot(*inbox), -1);
}

}  // namespace

int main() {
  for (int producers : {1, 3}) letters_of_each_producer_come_in_order(producers, 5000);
  full_means_full();
  slots_are_taken_once();
}
