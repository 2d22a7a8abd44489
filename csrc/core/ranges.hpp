// A list of tensors of mixed sizes as even pieces of work for parallel_for.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace pyparallel {

// Elements [begin, end) of the tensor at `index` in the list.
struct Range {
  std::int64_t index, begin, end;
};

// The list cut into tasks of about `task_elements`: a long tensor gives several tasks, many short ones share one. The
// cut depends on the arguments only; within a tensor it lies on multiples of kUnit. Empty tensors give no range.
class RangeTasks {
 public:
  static constexpr std::int64_t kTaskElements = 1 << 16;
  static constexpr std::int64_t kUnit = 512;

  template <typename Item>
  RangeTasks(const Item* items, std::int64_t count, std::int64_t task_elements = kTaskElements) {
    std::int64_t room = 0;
    for (std::int64_t index = 0; index < count; ++index) {
      for (std::int64_t begin = 0; begin < items[index].numel;) {
        if (room == 0) {
          first_.push_back(static_cast<std::int64_t>(ranges_.size()));
          room = task_elements;
        }
        const std::int64_t end = std::min(items[index].numel, begin + (room + kUnit - 1) / kUnit * kUnit);
        ranges_.push_back({index, begin, end});
        // A remainder too short to be worth a range of its own ends the task.
        room -= end - begin;
        if (room < task_elements / 16) room = 0;
        begin = end;
      }
    }
    first_.push_back(static_cast<std::int64_t>(ranges_.size()));
  }

  std::int64_t tasks() const { return static_cast<std::int64_t>(first_.size()) - 1; }
  const Range* begin(std::int64_t task) const { return ranges_.data() + first_[task]; }
  const Range* end(std::int64_t task) const { return ranges_.data() + first_[task + 1]; }

 private:
  std::vector<Range> ranges_;
  std::vector<std::int64_t> first_;  // of each task, in ranges_
};

// Long stretches of memory stream best, a few tasks per thread even out slow cores.
template <typename Item>
std::int64_t streaming_task_elements(const Item* items, std::int64_t count, int threads) {
  constexpr std::int64_t kTasksPerThread = 8;
  std::int64_t total = 0;
  for (std::int64_t index = 0; index < count; ++index) total += items[index].numel;
  return std::max(RangeTasks::kTaskElements, total / (kTasksPerThread * std::max(1, threads)));
}

}  // namespace pyparallel
