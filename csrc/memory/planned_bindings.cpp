// Bindings of planned placement: the marks of steps, what became of the plan, and plans of lifetimes by themselves.
#include "memory/planned_bindings.hpp"

#include "bindings.hpp"
#include "core/error.hpp"
#include "memory/planned_placement.hpp"

namespace pyparallel::memory {
namespace {

const char* name_of(PlanState state) {
  constexpr const char* kNames[] = {"waiting", "recording", "planning", "ready", "taking", "serving", "retiring"};
  return kNames[static_cast<int>(state)];
}

const char* name_of(Divergence::Reason reason) {
  constexpr const char* kNames[] = {"other request", "still alive", "too many requests", "too few requests",
                                    "no memory"};
  return kNames[static_cast<int>(reason)];
}

py::dict as_dict(const PlanStatistics& s) {
  py::dict result;
  result["state"] = name_of(s.state), result["steps"] = s.steps, result["planned_steps"] = s.planned_steps;
  result["requests"] = s.requests, result["planned_requests"] = s.planned_requests;
  result["bytes"] = s.bytes, result["planned_bytes"] = s.planned_bytes;
  result["plan_bytes"] = s.plan_bytes, result["plan_lower_bound"] = s.plan_lower_bound;
  result["arena_bytes"] = s.arena_bytes, result["live_bytes"] = s.live_bytes, result["live_blocks"] = s.live_blocks;
  result["divergences"] = s.divergences;
  py::list latest;
  for (const Divergence& d : s.latest)
    latest.append(py::make_tuple(name_of(d.reason), d.step, d.request,
                                 py::make_tuple(d.expected.num_bytes, d.expected.stream),
                                 py::make_tuple(d.got.num_bytes, d.got.stream)));
  result["latest"] = latest;
  return result;
}

std::tuple<std::vector<std::uint64_t>, std::uint64_t, std::uint64_t> plan(
    const std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>& lifetimes, std::uint64_t period,
    std::uint64_t budget) {
  std::vector<Lifetime> native;
  for (const auto& [num_bytes, birth, death] : lifetimes) native.push_back({num_bytes, birth, death});
  Plan plan = plan_offsets(native, period, budget);
  return {std::move(plan.offsets), plan.num_bytes, plan.lower_bound};
}

}  // namespace

void register_planned(py::module_& module) {
  const auto without_gil = py::call_guard<WithoutGil>();
  module.attr("PLAN_BUDGET") = kPlanBudget;
  module.def("plan_offsets", &plan, py::arg("lifetimes"), py::arg("period"), py::arg("budget"), without_gil);
  py::class_<PlannedPlacement, std::unique_ptr<PlannedPlacement, py::nodelete>>(module, "PlannedPlacement")
      .def("begin_step", &PlannedPlacement::begin_step, without_gil)
      .def("end_step", &PlannedPlacement::end_step, without_gil)
      .def("statistics", [](PlannedPlacement& plan) {
        PlanStatistics statistics;
        {
          WithoutGil without_gil;
          statistics = plan.statistics();
        }
        return as_dict(statistics);
      });
}

}  // namespace pyparallel::memory
