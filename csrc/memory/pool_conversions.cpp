// Field by field; the names are those of the Python dataclasses.
#include "memory/pool_conversions.hpp"

namespace pyparallel {
namespace {

py::dict as_dict(const memory::ClassStatistics& s) {
  py::dict result;
  result["live"] = s.live, result["live_peak"] = s.live_peak;
  result["allocated"] = s.allocated, result["freed"] = s.freed;
  result["allocations"] = s.allocations, result["frees"] = s.frees;
  return result;
}

py::dict as_dict(const memory::Idle& s) {
  py::dict result;
  result["hard"] = s.hard, result["soft"] = s.soft, result["stream"] = s.stream, result["cached"] = s.cached;
  return result;
}

// In torch's words.
const char* name_of(memory::State state) {
  if (state == memory::State::kLive) return "active_allocated";
  return state == memory::State::kPending ? "active_pending_free" : "inactive";
}

}  // namespace

py::dict as_dict(const memory::Statistics& s) {
  py::dict result;
  result["live"] = s.live, result["live_peak"] = s.live_peak, result["requested"] = s.requested;
  result["reserved"] = s.reserved, result["reserved_peak"] = s.reserved_peak, result["pending"] = s.pending;
  result["free"] = s.free, result["largest_hole"] = s.largest_hole, result["segments"] = s.segments;
  result["allocations"] = s.allocations, result["frees"] = s.frees;
  result["upstream_allocations"] = s.upstream_allocations, result["upstream_releases"] = s.upstream_releases;
  result["cross_stream_reuses"] = s.cross_stream_reuses, result["events"] = s.events;
  result["small"] = as_dict(s.by_class[0]), result["large"] = as_dict(s.by_class[1]);
  result["idle_at_peak"] = as_dict(s.idle_at_peak);
  return result;
}

py::list as_list(const std::vector<memory::StreamStatistics>& streams) {
  py::list result;
  for (const memory::StreamStatistics& s : streams) {
    py::dict entry;
    entry["stream"] = s.stream, entry["live"] = s.live, entry["free"] = s.free;
    entry["largest_hole"] = s.largest_hole, entry["events"] = s.events;
    result.append(entry);
  }
  return result;
}

py::list as_list(const std::vector<memory::ListedSegment>& segments) {
  py::list result;
  for (const memory::ListedSegment& segment : segments) {
    py::list blocks;
    for (const memory::ListedBlock& block : segment.blocks)
      blocks.append(py::make_tuple(reinterpret_cast<std::uintptr_t>(block.data), block.num_bytes, block.requested,
                                   block.serial, block.stream, block.site, name_of(block.state)));
    result.append(py::make_tuple(reinterpret_cast<std::uintptr_t>(segment.data), segment.num_bytes, blocks));
  }
  return result;
}

}  // namespace pyparallel
