// The inbox of a rank: a bounded queue of letters that any rank puts in and the owner takes out, with room for the
// contents of small messages. One per rank, so that memory grows with the number of ranks and not with its square.
#pragma once
#include <atomic>
#include <cstdint>

#include "comm/shm/flag.hpp"
#include "core/dtype.hpp"

namespace pyparallel::shm {

inline constexpr std::uint32_t kPrivate = 0xffffffff;      // Place::segment of ordinary memory
inline constexpr std::uint32_t kInboxCells = 256;          // letters that fit
inline constexpr int kInboxSlots = 64;                     // small messages that lie in the inbox until received
inline constexpr std::uint64_t kInboxSlotBytes = 4 << 10;  // what counts as small

// Where memory lies that a rank shares: an index in its segment table and the bytes from the segment's beginning.
struct Place {
  std::uint32_t segment;
  std::uint32_t generation;
  std::uint64_t offset;
};

enum class LetterKind : std::uint8_t {
  kSmall,     // to the receiver: a message, with its contents in slot `place.offset`
  kOffer,     // to the receiver: a message that lies in `place`, or in the sender's private memory
  kWindow,    // to the sender: write to `place`, `count` bytes at a time
  kFilled,    // to the receiver: the next bytes are in the window
  kDrained,   // to the sender: half of the window is free again
  kTaken,     // to the sender: the receiver has copied all of it
  kMismatch,  // to the sender: the receiver expected something else
};

struct Letter {
  LetterKind kind;
  DType dtype;
  std::uint16_t source;
  std::uint32_t id;     // of the message at its sender
  std::uint32_t reply;  // of the message at its receiver
  std::uint32_t tag;
  std::uint64_t count;  // elements
  Place place;
};

struct Inbox {
  struct alignas(64) Cell {
    std::atomic<std::uint64_t> turn;  // 2 * lap: free for that lap around the queue; 2 * lap + 1: holds a letter
    Letter letter;
  };
  alignas(128) Flag doorbell;                     // letters that came, or other news for the owner
  alignas(128) std::atomic<std::uint64_t> tail;   // letters put in
  std::atomic<std::uint32_t> crowded;             // 1: somebody wants to be told when there is room
  alignas(128) std::atomic<std::uint64_t> slots;  // one bit per slot in use
  Cell cells[kInboxCells];
  alignas(128) char contents[kInboxSlots][kInboxSlotBytes];
};
static_assert(sizeof(Inbox::Cell) == 64 && std::atomic<std::uint64_t>::is_always_lock_free);

// Wakes whoever waits at the doorbell.
void ring(Inbox& inbox);

// Puts a letter in and rings; false if the inbox is full.
bool put(Inbox& inbox, const Letter& letter);

// Takes the letter number `head` (counted by the owner) if it has come.
bool take(Inbox& inbox, std::uint64_t head, Letter& letter);

// A free slot, taken, or -1.
int take_slot(Inbox& inbox);
void give_slot(Inbox& inbox, int slot);

}  // namespace pyparallel::shm
