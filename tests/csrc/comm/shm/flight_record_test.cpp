// The flight record: the last 64, states, words, circles; readable while it is written.
#include "comm/shm/flight_record.hpp"

#include <memory>
#include <thread>

#include "check.hpp"
#include "comm/shm/communicator.hpp"

using namespace pyparallel;
using namespace pyparallel::shm;

namespace {

constexpr auto kReduce = static_cast<std::uint8_t>(Kind::kAllReduce);

void the_last_are_kept() {
  const auto log = std::make_unique<FlightLog>();
  CHECK_EQUAL(log->last().size(), 0u);
  std::uint64_t number = 0;
  for (std::uint32_t i = 1; i <= 100; ++i) {
    number = log->submit(kReduce, DType::kFloat32, i, 0, i);
    log->start(number);
    if (i % 2 == 0) log->end(number, i % 4 == 0);
  }
  const auto flights = log->last();
  CHECK_EQUAL(flights.size(), kFlightEntries);
  CHECK_EQUAL(flights.front().number, 37u);
  CHECK_EQUAL(flights.back().count, 100u);
  CHECK_EQUAL(static_cast<int>(flights.back().state), static_cast<int>(FlightState::kFailed));
  CHECK_EQUAL(static_cast<int>(flights[61].state), static_cast<int>(FlightState::kCompleted));
  CHECK_EQUAL(static_cast<int>(flights[62].state), static_cast<int>(FlightState::kStarted));
  log->end(1, true);  // forgotten long ago: its place is another's
  CHECK_EQUAL(log->read(1).number, 0u);
  CHECK_EQUAL(static_cast<int>(log->read(65).state), static_cast<int>(FlightState::kStarted));
}

void words() {
  const auto log = std::make_unique<FlightLog>();
  const auto text = [&](std::uint8_t kind, std::uint64_t count, int peer, std::uint32_t tag) {
    return describe(log->read(log->submit(kind, DType::kInt64, count, peer, tag)));
  };
  CHECK_EQUAL(text(kReduce, 5, 0, 3) == "all_reduce(5 x int64) #3", true);
  CHECK_EQUAL(text(static_cast<std::uint8_t>(Kind::kBarrier), 0, 0, 4) == "barrier() #4", true);
  CHECK_EQUAL(text(static_cast<std::uint8_t>(Kind::kBroadcast), 5, 2, 5) == "broadcast(5 x int64, root 2) #5", true);
  CHECK_EQUAL(text(kSendKind, 5, 2, 7) == "send(5 x int64, to rank 2, tag 7)", true);
  CHECK_EQUAL(text(kRecvKind, 5, -1, 7) == "recv(5 x int64, from any rank, tag 7)", true);
}

void circles_are_found_and_nothing_else() {
  const auto segment = Communicator::create_control(12);
  auto& control = *reinterpret_cast<ControlBlock*>(segment->data());
  const auto waits = [&](int r, Lane lane, int peer) {
    FlightLog& log = control.rank(r).flights;
    log.wait_for(lane, log.submit(kRecvKind, DType::kInt64, 1, peer, 0), peer);
  };
  const auto has = [&](const char* part) { return who_waits(control).find(part) != std::string::npos; };
  CHECK_EQUAL(has("rank 0 has called nothing"), true);
  waits(0, Lane::kMessages, 3);
  waits(3, Lane::kCollectives, 2);
  waits(2, Lane::kMessages, -1);
  CHECK_EQUAL(has("rank 2 waits for any rank in recv(1 x int64, from any rank, tag 0)"), true);
  CHECK_EQUAL(has("circle"), false);
  CHECK_EQUAL(has("and 4 ranks more"), true);
  waits(2, Lane::kCollectives, 5);
  waits(5, Lane::kMessages, 3);
  CHECK_EQUAL(has("\nranks wait for each other in a circle: 3 -> 2 -> 5 -> 3"), true);
  control.rank(2).flights.wait_for(Lane::kCollectives, 0, 0);
  CHECK_EQUAL(has("circle"), false);
}

void reading_while_writing() {
  const auto log = std::make_unique<FlightLog>();
  std::thread writer([&] {
    for (std::uint32_t i = 1; i <= 3000; ++i) {
      const std::uint64_t number = log->submit(kSendKind, DType::kInt64, i, static_cast<int>(i), i);
      log->start(number);
      log->wait_for(Lane::kMessages, number, static_cast<int>(i));
      log->end(number, false);
    }
  });
  for (int round = 0; round < 100; ++round)
    for (const Flight& flight : log->last()) CHECK_EQUAL(flight.number > 0, true);
  writer.join();
  for (const Flight& flight : log->last()) CHECK_EQUAL(flight.count, flight.number);
}

}  // namespace

int main() {
  the_last_are_kept();
  words();
  circles_are_found_and_nothing_else();
  reading_while_writing();
}
