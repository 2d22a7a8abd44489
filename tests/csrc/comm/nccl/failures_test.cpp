// What goes wrong ends in a typed error that names operation and cause, within the deadline, and nothing is leaked.
#include <functional>
#include <string>
#include <thread>

#include "comm/nccl/ranks.hpp"
#include "core/clock.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using namespace pyparallel::nccl;
using emulation::StreamOrder;

namespace {

constexpr std::int64_t kMilliseconds = 1'000'000;

// The text of the error of this type that `body` throws.
template <class Error>
std::string text_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    std::cerr << "another error than expected: " << error.what() << "\n";
    std::exit(1);
  }
  std::cerr << "no error was thrown\n";
  std::exit(1);
}

void check_text(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return;
  std::cerr << "'" << text << "' does not say '" << part << "'\n";
  std::exit(1);
}

// The watchdogs' threads run beside the streams' threads here.
void with_threads() {
  stand_in::plan({});
  stand_in::reset();
  emulation::Config config;
  config.streams = StreamOrder::kHostThreads;
  emulation::configure(config);
}

Options options(double timeout_seconds) { return {timeout_seconds, 5 * kMilliseconds, {}}; }

bool within(std::int64_t limit_ns, const std::function<bool()>& condition) {
  for (const std::int64_t deadline = now_ns() + limit_ns; now_ns() < deadline;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return condition();
}

bool soon_fails(Communicator& communicator, std::int64_t limit_ns = 2'000 * kMilliseconds) {
  return within(limit_ns, [&] { return communicator.error() != nullptr; });
}

std::shared_ptr<Work> reduce_one(Ranks& ranks, int rank, const Tensor& tensor) {
  return ranks[rank].all_reduce({tensor.data(), tensor.data(), 5, DType::kFloat32}, {}, ranks.stream(rank));
}

void a_call_that_fails_names_itself() {
  with_threads();
  Ranks ranks(1, options(60));
  Tensor tensor(64);
  stand_in::plan({.failing_rank = 0, .failing_call = "AllReduce", .failure = Result::kInvalidUsage});
  const std::string text = text_of<NcclError>([&] { reduce_one(ranks, 0, tensor); });
  check_text(text, "rank 0 in all_reduce(5 x float32): invalid usage (the stand-in's last words)");
  // The ranks are out of step: there is no next operation.
  CHECK_EQUAL(text_of<NcclError>([&] { ranks[0].barrier(ranks.stream(0)); }) == text, true);
  CHECK_EQUAL(stand_in::aborted_communicators(), 1);
}

// An error inside a group ends the group first, or all later calls would land in it.
void a_group_that_fails_is_ended() {
  with_threads();
  Tensor tensor(64);
  {
    Ranks ranks(1, options(60));
    stand_in::plan({.failing_rank = 0, .failing_call = "Recv", .failure = Result::kSystemError});
    text_of<NcclError>(
        [&] { ranks[0].gather({tensor.data(), tensor.data(), 4, DType::kFloat32}, 0, ranks.stream(0)); });
  }
  Ranks ranks(1, options(60));
  const auto work = reduce_one(ranks, 0, tensor);
  CHECK_EQUAL(within(2'000 * kMilliseconds, [&] { return work->is_completed(); }), true);
  CHECK_EQUAL(work->error() == nullptr, true);
}

// NCCL says that something broke; the peers' own words do not come, so its text is the cause.
void an_asynchronous_error_ends_what_is_in_flight() {
  with_threads();
  Ranks ranks(2, options(60));
  Tensor tensor(64);
  const auto work = reduce_one(ranks, 0, tensor);  // rank 1 does not come
  stand_in::break_connection(0, Result::kRemoteError);
  const std::int64_t begin = now_ns();
  CHECK_EQUAL(soon_fails(ranks[0]), true);
  CHECK_EQUAL(now_ns() - begin < 2'000 * kMilliseconds, true);
  const std::string text = text_of<NcclError>([&] { work->wait(ranks.stream(0)); });
  check_text(text, "rank 0 in all_reduce(5 x float32): remote process exited");
  CHECK_EQUAL(work->is_completed(), true);
  CHECK_EQUAL(ranks[1].error() == nullptr, true);
  check_cuda(cudaStreamSynchronize(ranks.stream(0)), "cudaStreamSynchronize");  // nothing is stuck
}

// ... and when they come, they are what is thrown.
void a_peers_own_words_come_first() {
  with_threads();
  Ranks ranks(2, options(60));
  Tensor tensor(64);
  const auto work = reduce_one(ranks, 0, tensor);
  stand_in::break_connection(0, Result::kRemoteError);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ranks[0].peer_failed(1, "broadcast(3 x int32)", "ValueError: no data", false);
  try {
    work->wait(ranks.stream(0));
    CHECK_EQUAL("an error", "none");
  } catch (const PeerFailedError& error) {
    CHECK_EQUAL(error.rank, 1);
    CHECK_EQUAL(error.operation == "broadcast(3 x int32)", true);
    CHECK_EQUAL(error.cause == "ValueError: no data", true);
    check_text(error.what(), "rank 0 was in all_reduce(5 x float32)");
  }
  text_of<PeerFailedError>([&] { ranks[0].barrier(ranks.stream(0)); });
  ranks[0].peer_failed(1, "", "later", true);  // the first one stays
  text_of<PeerFailedError>([&] { ranks[0].barrier(ranks.stream(0)); });
}

void a_dead_peer_is_named_at_once() {
  with_threads();
  Ranks ranks(2, options(60));
  Tensor tensor(64);
  const auto work = reduce_one(ranks, 0, tensor);
  const std::int64_t begin = now_ns();
  ranks[0].peer_failed(1, "", "its connection was closed", true);
  const std::string text = text_of<PeerLostError>([&] { work->wait(ranks.stream(0)); });
  check_text(text, "rank 1 died (its connection was closed); rank 0 was in all_reduce(5 x float32)");
  check_cuda(cudaStreamSynchronize(ranks.stream(0)), "cudaStreamSynchronize");
  CHECK_EQUAL(now_ns() - begin < 1'000 * kMilliseconds, true);
}

void a_silent_peer_ends_in_a_timeout() {
  with_threads();
  Ranks ranks(2, options(0.2));
  Tensor tensor(64);
  stand_in::plan({.hanging_rank = 0});
  const auto work = reduce_one(ranks, 0, tensor);
  const std::int64_t begin = now_ns();
  CHECK_EQUAL(soon_fails(ranks[0]), true);
  CHECK_EQUAL(now_ns() - begin >= 190 * kMilliseconds, true);
  const std::string text = text_of<CollectiveTimeoutError>([&] { work->wait(ranks.stream(0)); });
  check_text(text, "rank 0 waited 200 ms for the other ranks in all_reduce(5 x float32)");
}

// What waits for its own caller's stream is not late: the deadline begins when the device comes to it.
void a_busy_caller_is_no_timeout() {
  with_threads();
  Ranks ranks(1, options(0.1));
  Tensor tensor(64);
  const auto slow = [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(400)); };
  check_cuda(cudaLaunchHostFunc(ranks.stream(0), slow, nullptr), "cudaLaunchHostFunc");
  const auto work = reduce_one(ranks, 0, tensor);
  CHECK_EQUAL(within(2'000 * kMilliseconds, [&] { return work->is_completed(); }), true);
  CHECK_EQUAL(work->error() == nullptr, true);
}

// What ended before the failure has its result.
void ended_works_keep_their_results() {
  with_threads();
  Ranks ranks(2, options(60));
  Tensor first(64), second(64), third(64);
  const auto good = reduce_one(ranks, 0, first);
  reduce_one(ranks, 1, second);
  CHECK_EQUAL(within(2'000 * kMilliseconds, [&] { return good->is_completed(); }), true);
  const auto bad = reduce_one(ranks, 0, third);
  ranks[0].peer_failed(1, "", "killed", true);
  good->wait(ranks.stream(0));
  text_of<PeerLostError>([&] { bad->wait(ranks.stream(0)); });
}

// A rank that has left is missed by what needs it, and by nothing else.
void a_rank_that_left_is_missed() {
  with_threads();
  Ranks ranks(3, options(60));
  Tensor tensor(64), other(64);
  const Operand five{tensor.data(), tensor.data(), 5, DType::kFloat32};
  const auto received = ranks[0].recv(five, 1, ranks.stream(0));
  ranks[0].peer_left(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(800));
  CHECK_EQUAL(ranks[0].error() == nullptr, true);
  ranks[1].send({other.data(), nullptr, 5, DType::kFloat32}, 0, ranks.stream(1));
  CHECK_EQUAL(within(2'000 * kMilliseconds, [&] { return received->is_completed(); }), true);
  CHECK_EQUAL(received->error() == nullptr, true);
  const auto work = ranks[0].all_reduce(five, {}, ranks.stream(0));
  CHECK_EQUAL(soon_fails(ranks[0]), true);
  check_text(text_of<PeerLostError>([&] { work->wait(ranks.stream(0)); }), "rank 2 left and closed its communicator");
}

// Two ranks of a larger world keep their names there.
void errors_call_the_ranks_by_their_names() {
  with_threads();
  Options named = options(0.1);
  named.names = {5, 3};
  Ranks ranks(2, named);
  Tensor tensor(64);
  const auto work = ranks[1].recv({nullptr, tensor.data(), 5, DType::kFloat32}, 0, ranks.stream(1));
  CHECK_EQUAL(soon_fails(ranks[1]), true);
  const std::string text = text_of<CollectiveTimeoutError>([&] { work->wait(ranks.stream(1)); });
  check_text(text, "rank 3 waited 100 ms for the other ranks in recv(5 x float32) from rank 5");
}

void a_rank_that_does_not_join_ends_in_a_timeout() {
  with_threads();
  const Library& library = stand_in_library();
  const UniqueId id = Communicator::create_unique_id(library);
  Communicator alone(library, id, 0, 2, 0, options(0.1));
  const std::string text = text_of<CollectiveTimeoutError>([&] { alone.join(); });
  check_text(text, "rank 0 waited 100 ms for the other ranks in init()");
  CHECK_EQUAL(stand_in::aborted_communicators(), 1);
}

void finishing_waits_and_closing_refuses() {
  with_threads();
  Ranks ranks(1, options(60));
  Tensor tensor(64);
  const auto work = reduce_one(ranks, 0, tensor);
  ranks[0].finish();
  CHECK_EQUAL(work->is_completed(), true);
  ranks[0].close();
  ranks[0].close();
  check_text(text_of<InvalidArgument>([&] { reduce_one(ranks, 0, tensor); }), "closed");
  CHECK_EQUAL(stand_in::open_communicators(), 0);
  CHECK_EQUAL(stand_in::aborted_communicators(), 0);
}

void finishing_has_a_deadline() {
  with_threads();
  Ranks ranks(2, Options{0.1, 0, {}});
  Tensor tensor(64);
  reduce_one(ranks, 0, tensor);
  check_text(text_of<CollectiveTimeoutError>([&] { ranks[0].finish(); }), "for the end of all_reduce(5 x float32)");
}

// Failures from several threads while operations are being issued: one of them is thrown everywhere.
void failures_may_come_from_anywhere() {
  for (int repeat = 0; repeat < 5; ++repeat) {
    with_threads();
    Ranks ranks(2, options(60));
    Tensor tensor(64);
    std::thread one([&] { ranks[0].peer_failed(1, "", "killed", true); });
    std::thread two([&] { ranks[0].peer_failed(1, "barrier()", "raised", false); });
    try {
      for (;;) reduce_one(ranks, 0, tensor);
    } catch (const PeerLostError&) {
    } catch (const PeerFailedError&) {
    }
    one.join();
    two.join();
  }
}

}  // namespace

int main() {
  a_call_that_fails_names_itself();
  a_group_that_fails_is_ended();
  an_asynchronous_error_ends_what_is_in_flight();
  a_peers_own_words_come_first();
  a_dead_peer_is_named_at_once();
  a_silent_peer_ends_in_a_timeout();
  a_busy_caller_is_no_timeout();
  ended_works_keep_their_results();
  a_rank_that_left_is_missed();
  errors_call_the_ranks_by_their_names();
  a_rank_that_does_not_join_ends_in_a_timeout();
  finishing_waits_and_closing_refuses();
  finishing_has_a_deadline();
  failures_may_come_from_anywhere();
  stand_in::plan({});
  emulation::configure({});
}
