// The queue of an inbox: producers claim a ticket, the cell's turn says when it may be written and read.
#include "comm/shm/inbox.hpp"

#include <bit>

namespace pyparallel::shm {

void ring(Inbox& inbox) {
  Flag& bell = inbox.doorbell;
  bell.value.fetch_add(1, std::memory_order_seq_cst);
  wake(bell);
}

bool put(Inbox& inbox, const Letter& letter) {
  std::uint64_t ticket = inbox.tail.load(std::memory_order_relaxed);
  for (;;) {
    Inbox::Cell& cell = inbox.cells[ticket % kInboxCells];
    const std::uint64_t lap = 2 * (ticket / kInboxCells), turn = cell.turn.load(std::memory_order_seq_cst);
    if (turn < lap) return false;
    if (turn > lap) {
      ticket = inbox.tail.load(std::memory_order_relaxed);
      continue;
    }
    if (!inbox.tail.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed)) continue;
    cell.letter = letter;
    cell.turn.store(lap + 1, std::memory_order_release);
    ring(inbox);
    return true;
  }
}

bool take(Inbox& inbox, std::uint64_t head, Letter& letter) {
  Inbox::Cell& cell = inbox.cells[head % kInboxCells];
  const std::uint64_t lap = 2 * (head / kInboxCells);
  if (cell.turn.load(std::memory_order_acquire) != lap + 1) return false;
  letter = cell.letter;
  cell.turn.store(lap + 2, std::memory_order_seq_cst);
  return true;
}

int take_slot(Inbox& inbox) {
  std::uint64_t used = inbox.slots.load(std::memory_order_relaxed);
  while (~used != 0) {
    const int slot = std::countr_one(used);
    if (inbox.slots.compare_exchange_weak(used, used | (std::uint64_t{1} << slot), std::memory_order_acquire))
      return slot;
  }
  return -1;
}

void give_slot(Inbox& inbox, int slot) {
  inbox.slots.fetch_and(~(std::uint64_t{1} << slot), std::memory_order_release);
}

}  // namespace pyparallel::shm
