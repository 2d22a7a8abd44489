// What a pool tells of itself, as Python's dictionaries and lists.
#pragma once
#include <vector>

#include "bindings.hpp"
#include "memory/listing.hpp"
#include "memory/statistics.hpp"

namespace pyparallel {

py::dict as_dict(const memory::Statistics& statistics);
py::list as_list(const std::vector<memory::StreamStatistics>& streams);
// One tuple per segment: address, bytes, blocks; and per block: address, bytes, requested, serial, stream, site, state.
py::list as_list(const std::vector<memory::ListedSegment>& segments);

}  // namespace pyparallel
