// Messages between two ranks: matched by source and tag in the order they were sent, each by the shortest way there is.
//
//   small    sender: contents into a slot of the receiver's inbox, done | receiver: out of the slot
//   shared   sender offers the place | receiver copies straight out of it and says so
//   window   sender offers | receiver names where to write: its own tensor if that is shared, else a bounce buffer |
//            sender fills the halves of the bounce buffer in turn while the receiver drains them
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "comm/shm/control.hpp"
#include "comm/shm/peers.hpp"
#include "comm/work.hpp"

namespace pyparallel::shm {

inline constexpr int kAnyRank = -1;

// One send or receive. The memory is contiguous and stays valid until it is completed.
struct Message : Work {
  bool sending = false;
  int peer = 0;  // destination, or source; or kAnyRank for a receive
  std::uint32_t tag = 0;
  DType dtype = DType::kUInt8;
  std::uint64_t count = 0;  // elements
  char* data = nullptr;     // only read when sending
  int source = kAnyRank;    // of a receive, once it is matched

  std::uint64_t num_bytes() const { return count * item_size(dtype); }

 private:
  friend class Messenger;
  // What this rank does with the window: nothing, copy it whole, or its halves in turn.
  enum class Way : std::uint8_t { kNone, kWhole, kHalves };
  Way way = Way::kNone;
  std::uint32_t id = 0, partner = 0;  // here, and at the peer
  std::uint64_t moved = 0;            // bytes
  std::uint64_t credits = 0;          // chunks that may be copied now
  char* window = nullptr;
  std::shared_ptr<SharedSegment> held;  // what the window lies in
};

std::string describe(const Message& message);

// The messages of one rank. Nothing here waits; used by one thread at a time.
class Messenger {
 public:
  static constexpr std::uint64_t kChunkBytes = 128 << 10;  // copied in one step; half a bounce buffer
  static constexpr int kBounceBuffers = 4;                 // messages that come to this rank in halves at a time

  Messenger(ControlBlock& control, int rank, const std::vector<int>& processes, SegmentTable& segments);
  Messenger(const Messenger&) = delete;
  Messenger& operator=(const Messenger&) = delete;

  // Begins a message. A small one is sent, or received if it is there, at once.
  void start(const std::shared_ptr<Message>& message);
  // Handles one letter and copies one chunk; false if there was nothing to do. Throws CollectiveMismatchError if the
  // peer of a message means another size or dtype; nothing more can be done with this messenger then.
  bool progress();
  // Takes back a receive that no message has been matched with; false if there was one.
  bool withdraw(const Message& message);
  // Whether anything here still needs progress().
  bool busy() const { return !open_.empty() || !receives_.empty() || !backlog_.empty(); }
  // Completes everything that is in flight with an error.
  void fail(const std::exception_ptr& error);
  // Completes what is in flight with a rank that has left with what check(description of the message) throws.
  void lose(int rank, const std::function<void(const std::string&)>& check);

  Inbox& inbox() { return own_; }
  Flag& doorbell() { return own_.doorbell; }
  std::uint64_t completed() const { return completed_; }  // messages so far

 private:
  void send(const std::shared_ptr<Message>& message);
  void receive(const Letter& letter);
  void match(const std::shared_ptr<Message>& message, const Letter& letter);
  void offer_bounce(const std::shared_ptr<Message>& message);
  void open_window(const std::shared_ptr<Message>& message, const Letter& letter);
  void allow(const std::shared_ptr<Message>& message, std::uint64_t chunks);
  void advance(const std::shared_ptr<Message>& message);
  void finish(const std::shared_ptr<Message>& message);
  void complete(Message& message, const std::exception_ptr& error = {});
  bool concerns(const Message& message, int gone) const;
  void post(const Message& to, LetterKind kind, std::uint64_t count = 0, Place place = {});
  void post(int rank, const Letter& letter);
  bool flush();
  [[noreturn]] void disagree(const std::shared_ptr<Message>& message, const Letter& letter);

  ControlBlock& control_;
  int rank_;
  Inbox& own_;
  SegmentTable& segments_;
  PeerMemory memory_;

  std::uint64_t head_ = 0;  // letters taken
  std::uint32_t next_id_ = 0;
  std::uint64_t completed_ = 0;
  std::deque<std::shared_ptr<Message>> receives_;                     // not matched yet, in the order of their calls
  std::deque<Letter> unexpected_;                                     // messages nobody has asked for yet, as they came
  std::unordered_map<std::uint32_t, std::shared_ptr<Message>> open_;  // by id: sends offered, receives matched
  std::deque<std::shared_ptr<Message>> ready_;                        // those of open_ with credits
  std::deque<std::shared_ptr<Message>> starved_;                      // matched, but without a bounce buffer so far
  std::map<int, std::deque<Letter>> backlog_;                         // letters that found the rank's inbox full
  std::vector<std::shared_ptr<SharedSegment>> bounce_, free_;         // buffers made so far; those not in use
};

}  // namespace pyparallel::shm
