// The messages of one rank as a state machine: letters come in, chunks are copied, letters go out.
#include "comm/shm/messenger.hpp"

#include <algorithm>
#include <cstring>

#include "core/clock.hpp"
#include "core/error.hpp"
#include "core/stream_copy.hpp"

namespace pyparallel::shm {
namespace {

std::uint64_t chunks_of(std::uint64_t bytes) { return (bytes + Messenger::kChunkBytes - 1) / Messenger::kChunkBytes; }

std::string elements(std::uint64_t count, DType dtype) { return std::to_string(count) + " x " + name(dtype); }

bool accepts(const Message& receive, const Letter& letter) {
  return (receive.peer == kAnyRank || receive.peer == letter.source) && receive.tag == letter.tag;
}

CollectiveMismatchError mismatch(int sender, const std::string& sent, int receiver, const std::string& expected,
                                 std::uint32_t tag) {
  return CollectiveMismatchError("ranks disagree in a message with tag " + std::to_string(tag) + ": rank " +
                                 std::to_string(sender) + " sent " + sent + ", rank " + std::to_string(receiver) +
                                 " receives " + expected);
}

}  // namespace

std::string describe(const Message& m) {
  const std::string peer = m.peer == kAnyRank ? "any rank" : "rank " + std::to_string(m.peer);
  return (m.sending ? "send(" : "recv(") + elements(m.count, m.dtype) + (m.sending ? ", to " : ", from ") + peer +
         ", tag " + std::to_string(m.tag) + ")";
}

Messenger::Messenger(ControlBlock& control, int rank, const std::vector<int>& processes, SegmentTable& segments)
    : control_(control),
      rank_(rank),
      own_(control.rank(rank).inbox),
      segments_(segments),
      memory_(control, processes) {}

void Messenger::start(const std::shared_ptr<Message>& message) {
  message->started_ns = now_ns();
  control_.rank(rank_).flights.start(message->flight);
  if (message->sending) return send(message);
  const auto letter = std::find_if(unexpected_.begin(), unexpected_.end(),
                                   [&](const Letter& candidate) { return accepts(*message, candidate); });
  if (letter == unexpected_.end()) {
    receives_.push_back(message);
    return;
  }
  const Letter found = *letter;
  unexpected_.erase(letter);
  match(message, found);
}

void Messenger::send(const std::shared_ptr<Message>& message) {
  Message& m = *message;
  const std::uint64_t bytes = m.num_bytes();
  Letter letter{LetterKind::kSmall, m.dtype, static_cast<std::uint16_t>(rank_), ++next_id_, 0, m.tag, m.count, {}};
  if (bytes <= kInboxSlotBytes && !backlog_.contains(m.peer)) {
    Inbox& inbox = control_.rank(m.peer).inbox;
    const int slot = take_slot(inbox);
    if (slot >= 0) {
      if (bytes > 0) std::memcpy(inbox.contents[slot], m.data, bytes);
      letter.place.offset = static_cast<std::uint64_t>(slot);
      if (put(inbox, letter)) return complete(m);
      give_slot(inbox, slot);
    }
  }
  letter.kind = LetterKind::kOffer;
  letter.place = segments_.locate(m.data, bytes);
  m.id = letter.id;
  open_[m.id] = message;
  post(m.peer, letter);
}

bool Messenger::progress() {
  bool moved = !backlog_.empty() && flush();
  Letter letter;
  if (take(own_, head_, letter)) {
    ++head_;
    moved = true;
    if (own_.crowded.load(std::memory_order_seq_cst) != 0 && own_.crowded.exchange(0) != 0)
      for (std::uint32_t r = 0; r < control_.world_size; ++r) ring(control_.rank(static_cast<int>(r)).inbox);
    receive(letter);
  }
  if (!ready_.empty()) {
    moved = true;
    const std::shared_ptr<Message> message = ready_.front();
    ready_.pop_front();
    advance(message);
  }
  return moved;
}

void Messenger::receive(const Letter& letter) {
  if (letter.kind == LetterKind::kSmall || letter.kind == LetterKind::kOffer) {
    const auto receive = std::find_if(receives_.begin(), receives_.end(),
                                      [&](const auto& candidate) { return accepts(*candidate, letter); });
    if (receive == receives_.end()) {
      unexpected_.push_back(letter);
      return;
    }
    const std::shared_ptr<Message> message = *receive;
    receives_.erase(receive);
    return match(message, letter);
  }
  if (letter.kind == LetterKind::kMismatch)  // the place carries what this rank sent
    throw mismatch(rank_, elements(letter.place.offset, static_cast<DType>(letter.place.segment)), letter.source,
                   elements(letter.count, letter.dtype), letter.tag);
  const auto found = open_.find(letter.kind == LetterKind::kFilled ? letter.reply : letter.id);
  if (found == open_.end()) return;
  const std::shared_ptr<Message> message = found->second;
  if (letter.kind == LetterKind::kWindow) return open_window(message, letter);
  const bool all = letter.kind == LetterKind::kTaken || message->way == Message::Way::kNone;
  return all ? finish(message) : allow(message, 1);
}

// A receive has found its message.
void Messenger::match(const std::shared_ptr<Message>& message, const Letter& letter) {
  Message& m = *message;
  m.peer = letter.source;
  m.source = letter.source;
  if (letter.count != m.count || letter.dtype != m.dtype) disagree(message, letter);
  const std::uint64_t bytes = m.num_bytes();
  if (letter.kind == LetterKind::kSmall) {
    const int slot = static_cast<int>(letter.place.offset);
    if (bytes > 0) std::memcpy(m.data, own_.contents[slot], bytes);
    give_slot(own_, slot);
    return complete(m);
  }
  m.id = ++next_id_;
  m.partner = letter.id;
  open_[m.id] = message;
  if (bytes == 0) {
    post(m, LetterKind::kTaken);
    return finish(message);
  }
  if (letter.place.segment != kPrivate) return open_window(message, letter);
  const Place own = segments_.locate(m.data, bytes);
  if (own.segment != kPrivate) return post(m, LetterKind::kWindow, bytes, own);
  if (free_.empty() && bounce_.size() == kBounceBuffers) {
    starved_.push_back(message);
    return;
  }
  offer_bounce(message);
}

void Messenger::offer_bounce(const std::shared_ptr<Message>& message) {
  Message& m = *message;
  if (free_.empty()) {
    bounce_.push_back(SharedSegment::create(2 * kChunkBytes));
    free_.push_back(bounce_.back());
  }
  m.held = free_.back();
  free_.pop_back();
  m.window = m.held->data();
  m.way = Message::Way::kHalves;
  post(m, LetterKind::kWindow, kChunkBytes, segments_.locate(m.window, 2 * kChunkBytes));
}

// The peer has said where its side of the message lies.
void Messenger::open_window(const std::shared_ptr<Message>& message, const Letter& letter) {
  Message& m = *message;
  memory_.sweep();
  m.held = memory_.segment(m.peer, letter.place);
  m.window = m.held->data() + letter.place.offset;
  if (m.sending) m.partner = letter.reply;
  const bool halves = m.sending && letter.count < m.num_bytes();
  m.way = halves ? Message::Way::kHalves : Message::Way::kWhole;
  allow(message, halves ? 2 : chunks_of(m.num_bytes()));
}

void Messenger::allow(const std::shared_ptr<Message>& message, std::uint64_t chunks) {
  if (message->credits == 0) ready_.push_back(message);
  message->credits += chunks;
}

void Messenger::advance(const std::shared_ptr<Message>& message) {
  Message& m = *message;
  const bool halves = m.way == Message::Way::kHalves;
  const std::uint64_t bytes = std::min(kChunkBytes, m.num_bytes() - m.moved);
  char* const window = m.window + (halves ? m.moved % (2 * kChunkBytes) : m.moved);
  if (m.sending)
    stream_copy(window, m.data + m.moved, bytes);
  else
    std::memcpy(m.data + m.moved, window, bytes);
  m.moved += bytes;
  --m.credits;
  const std::uint64_t left = m.num_bytes() - m.moved;
  if (m.sending && (halves || left == 0)) post(m, LetterKind::kFilled);
  if (!m.sending && halves && left > kChunkBytes) post(m, LetterKind::kDrained);
  if (!m.sending && !halves && left == 0) post(m, LetterKind::kTaken);
  if (left == 0) return finish(message);
  if (m.credits > 0) ready_.push_back(message);
}

void Messenger::finish(const std::shared_ptr<Message>& message) {
  Message& m = *message;
  open_.erase(m.id);
  const bool bounced = !m.sending && m.way == Message::Way::kHalves;
  if (bounced) free_.push_back(std::move(m.held));
  complete(m);
  if (!bounced || starved_.empty()) return;
  const std::shared_ptr<Message> next = starved_.front();
  starved_.pop_front();
  offer_bounce(next);
}

void Messenger::complete(Message& message, const std::exception_ptr& error) {
  message.ended_ns = now_ns();
  message.error = error;
  control_.rank(rank_).flights.end(message.flight, error != nullptr);
  message.held.reset();
  ++completed_;
  message.completed.store(true, std::memory_order_release);
}

bool Messenger::withdraw(const Message& message) {
  const auto found =
      std::find_if(receives_.begin(), receives_.end(), [&](const auto& receive) { return receive.get() == &message; });
  if (found == receives_.end()) return false;
  complete(**found, std::make_exception_ptr(InvalidArgument("the receive was withdrawn")));
  receives_.erase(found);
  return true;
}

void Messenger::fail(const std::exception_ptr& error) {
  for (const auto& message : receives_) complete(*message, error);
  for (const auto& [id, message] : open_) complete(*message, error);
  receives_.clear();
  open_.clear();
  ready_.clear();
  starved_.clear();
  backlog_.clear();
}

// A receive from any rank has nobody left to wait for when all others are gone.
bool Messenger::concerns(const Message& message, int gone) const {
  if (message.peer != kAnyRank) return message.peer == gone;
  for (int r = 0; r < static_cast<int>(control_.world_size); ++r)
    if (r != rank_ && control_.rank(r).closed.load(std::memory_order_acquire) == 0) return false;
  return true;
}

void Messenger::lose(int rank, const std::function<void(const std::string&)>& check) {
  std::vector<std::shared_ptr<Message>> lost;
  const auto collect = [&](const std::shared_ptr<Message>& message) {
    if (concerns(*message, rank)) lost.push_back(message);
  };
  for (const auto& message : receives_) collect(message);
  for (const auto& [id, message] : open_) collect(message);
  for (const auto& message : lost) {
    try {
      check(describe(*message));
    } catch (...) {
      std::erase(receives_, message);
      std::erase(ready_, message);
      std::erase(starved_, message);
      open_.erase(message->id);
      if (!message->sending && message->way == Message::Way::kHalves) free_.push_back(message->held);
      complete(*message, std::current_exception());
    }
  }
  backlog_.erase(rank);
}

void Messenger::post(const Message& to, LetterKind kind, std::uint64_t count, Place place) {
  const std::uint32_t id = to.sending ? to.id : to.partner, reply = to.sending ? to.partner : to.id;
  post(to.peer, {kind, to.dtype, static_cast<std::uint16_t>(rank_), id, reply, to.tag, count, place});
}

void Messenger::post(int rank, const Letter& letter) {
  if (!backlog_.contains(rank) && put(control_.rank(rank).inbox, letter)) return;
  backlog_[rank].push_back(letter);
  flush();
}

bool Messenger::flush() {
  bool moved = false;
  for (auto entry = backlog_.begin(); entry != backlog_.end();) {
    auto& [rank, letters] = *entry;
    Inbox& inbox = control_.rank(rank).inbox;
    bool asked = false;
    while (!letters.empty()) {
      if (put(inbox, letters.front())) {
        letters.pop_front();
        moved = true;
      } else if (!asked) {
        asked = true;
        inbox.crowded.store(1, std::memory_order_seq_cst);  // its owner may have made room just before
      } else {
        break;
      }
    }
    entry = letters.empty() ? backlog_.erase(entry) : std::next(entry);
  }
  return moved;
}

void Messenger::disagree(const std::shared_ptr<Message>& message, const Letter& letter) {
  const Message& m = *message;
  receives_.push_back(message);  // so that it fails with all others
  Letter answer{LetterKind::kMismatch, m.dtype, static_cast<std::uint16_t>(rank_), letter.id, 0, m.tag, m.count, {}};
  answer.place = {static_cast<std::uint32_t>(letter.dtype), 0, letter.count};
  post(letter.source, answer);
  throw mismatch(letter.source, elements(letter.count, letter.dtype), rank_, elements(m.count, m.dtype), m.tag);
}

}  // namespace pyparallel::shm
