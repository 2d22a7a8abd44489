// Vector clocks: what each stream knows of the others' work, and whether that orders two uses of a byte.
//
// A use happens before another if the other's stream knows of it. What a stream knows of another's operation it knows
// of everything before that, so of every byte the latest use alone is kept.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

// Two uses of a byte without an order between them.
struct Race : std::logic_error {
  using std::logic_error::logic_error;
};

using StreamNumber = std::uint64_t;
using Clock = std::map<StreamNumber, std::uint64_t>;  // by stream: how many of its operations are known to be over

inline void merge(Clock& into, const Clock& from) {
  for (const auto& [stream, operation] : from) into[stream] = std::max(into[stream], operation);
}

class Timeline {
 public:
  // The next operation of a stream: it knows what the stream and `host` know.
  const Clock& enqueue(StreamNumber stream) {
    Clock& clock = clocks[stream];
    merge(clock, host);
    ++clock[stream];
    return clock;
  }

  // An operation reads or writes [first, end). Throws Race with both uses.
  void use(StreamNumber stream, const std::string& name, std::uintptr_t first, std::uintptr_t end,
           const std::string& what) {
    const Clock& clock = enqueue(stream);
    const Use use = {stream, clock.at(stream), name, what};
    check(first, end, clock, use.described(), "stream " + name);
    forget(first, end);
    uses_[first] = {end, use};
  }

  // The host does something there: throws Race unless it knows of all uses.
  void use_by_host(std::uintptr_t first, std::uintptr_t end, const std::string& what) {
    check(first, end, host, what + " (the host)", "the host");
    forget(first, end);
  }

  std::map<StreamNumber, Clock> clocks;
  Clock host;

 private:
  struct Use {
    StreamNumber stream;
    std::uint64_t operation;
    std::string name, what;

    std::string described() const {
      return what + " (stream " + name + ", operation " + std::to_string(operation) + ")";
    }
  };
  struct Piece {
    std::uintptr_t end;
    Use use;
  };

  // The first piece that reaches beyond `first`.
  std::map<std::uintptr_t, Piece>::iterator piece_at(std::uintptr_t first) {
    auto piece = uses_.upper_bound(first);
    if (piece != uses_.begin() && std::prev(piece)->second.end > first) --piece;
    return piece;
  }

  void check(std::uintptr_t first, std::uintptr_t end, const Clock& clock, const std::string& later,
             const std::string& who) {
    for (auto piece = piece_at(first); piece != uses_.end() && piece->first < end; ++piece) {
      const Use& use = piece->second.use;
      const auto known = clock.find(use.stream);
      const std::uint64_t up_to = known == clock.end() ? 0 : known->second;
      if (up_to >= use.operation) continue;
      std::ostringstream message;
      message << "race: " << use.described() << " and then " << later << ", both at "
              << reinterpret_cast<const void*>(std::max(first, piece->first)) << ": " << who << " knows of stream "
              << use.name << " up to operation " << up_to << " only";
      throw Race(message.str());
    }
  }

  void forget(std::uintptr_t first, std::uintptr_t end) {
    for (auto piece = piece_at(first); piece != uses_.end() && piece->first < end;) {
      const auto [begin, old] = *piece;
      piece = uses_.erase(piece);
      if (begin < first) uses_[begin] = {first, old.use};
      if (old.end > end) uses_[end] = {old.end, old.use};
    }
  }

  std::map<std::uintptr_t, Piece> uses_;  // by first address: the latest use
};
