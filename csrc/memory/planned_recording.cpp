// Two steps beside each other: which threads agree, and when each block of them dies.
#include "memory/planned_recording.hpp"

#include <algorithm>
#include <map>

namespace pyparallel::memory {
namespace {

bool contains(const std::vector<ThreadNumber>& threads, ThreadNumber thread) {
  return std::find(threads.begin(), threads.end(), thread) != threads.end();
}

}  // namespace

void Recording::begin() {
  previous_ = std::move(current_);
  current_.clear();
  ++steps_;
  ended_ = false;
  std::erase_if(live_, [&](const auto& entry) { return entry.second.step + 1 < steps_; });
}

void Recording::end() { ended_ = true; }

void Recording::allocated(const void* data, const Request& request, ThreadNumber thread) {
  if (current_.size() > kMostRequests) return;
  live_[data] = {steps_, current_.size()};
  current_.push_back({request, thread, false, kNever, kNever});
}

Recording::Entry* Recording::find(const void* data) {
  const auto found = live_.find(data);
  if (found == live_.end()) return nullptr;
  return &(found->second.step == steps_ ? current_ : previous_)[found->second.entry];
}

void Recording::used(const void* data) {
  if (Entry* const entry = find(data)) entry->shared = true;
}

void Recording::freed(const void* data) {
  Entry* const entry = find(data);
  if (entry == nullptr) return;
  // What dies between two steps has lived over the end of one.
  if (live_.at(data).step != steps_)
    entry->freed_next = current_.size();
  else if (ended_)
    entry->freed_next = 0;
  else
    entry->freed = current_.size();
  live_.erase(data);
}

std::vector<ThreadNumber> Recording::agreeing_threads(ThreadNumber marker) const {
  std::map<ThreadNumber, std::uint64_t> bytes;
  for (const Entry& entry : current_) bytes[entry.thread] += entry.request.num_bytes;
  std::vector<std::pair<std::uint64_t, ThreadNumber>> by_bytes;
  for (const auto& [thread, num_bytes] : bytes) by_bytes.emplace_back(thread == marker ? kNever : num_bytes, thread);
  std::sort(by_bytes.begin(), by_bytes.end(),
            [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
  std::vector<ThreadNumber> threads;
  const auto next = [&](const Step& step, std::size_t i) {
    while (i < step.size() && !contains(threads, step[i].thread)) ++i;
    return i;
  };
  for (const auto& [num_bytes, thread] : by_bytes) {
    threads.push_back(thread);
    std::size_t a = next(previous_, 0), b = next(current_, 0);
    while (a < previous_.size() && b < current_.size() && previous_[a].request == current_[b].request)
      a = next(previous_, a + 1), b = next(current_, b + 1);
    if (a < previous_.size() || b < current_.size()) threads.pop_back();
  }
  return threads;
}

std::optional<Period> Recording::period(ThreadNumber marker) const {
  if (previous_.empty() || current_.empty() || std::max(previous_.size(), current_.size()) > kMostRequests) return {};
  Period period;
  period.threads = agreeing_threads(marker);
  if (period.threads.empty()) return {};
  // Of each step: the entries that count, and how many of those come before each entry.
  struct Counted {
    std::vector<const Entry*> entries;
    std::vector<std::uint64_t> before;
  };
  const auto count = [&](const Step& step) {
    Counted result;
    for (const Entry& entry : step) {
      result.before.push_back(result.entries.size());
      if (contains(period.threads, entry.thread)) result.entries.push_back(&entry);
    }
    result.before.push_back(result.entries.size());
    return result;
  };
  const Counted previous = count(previous_), current = count(current_);
  const std::uint64_t size = current.entries.size();
  for (std::uint64_t i = 0; i < size; ++i) {
    const Entry &a = *previous.entries[i], &b = *current.entries[i];
    // Of the current step one knows only what it has freed itself.
    std::uint64_t death = 0;
    if (a.freed_next != kNever)
      death = size + current.before[a.freed_next];
    else if (a.freed != kNever && b.freed != kNever)
      death = std::max(previous.before[a.freed], current.before[b.freed]);
    const bool periodic = death > i && death <= i + size && !a.shared && !b.shared;
    period.requests.push_back(b.request);
    period.deaths.push_back(periodic ? death : 0);
  }
  return period;
}

}  // namespace pyparallel::memory
