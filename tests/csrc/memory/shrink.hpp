// A failing history made small: parts are left out, then numbers made small, for as long as it still fails.
#pragma once
#include <sstream>

#include "memory/history.hpp"

template <class Fails>
void leave_out(std::vector<Step>& history, const Fails& fails) {
  for (std::size_t part = std::max<std::size_t>(history.size() / 2, 1);; part /= 2) {
    for (std::size_t end = history.size(); end > 0;) {
      const std::size_t begin = end > part ? end - part : 0;
      std::vector<Step> rest(history.begin(), history.begin() + static_cast<std::ptrdiff_t>(begin));
      rest.insert(rest.end(), history.begin() + static_cast<std::ptrdiff_t>(end), history.end());
      if (fails(rest)) history = rest;
      end = begin;
    }
    if (part <= 1) return;
  }
}

template <class Fails>
void simplify(std::vector<Step>& history, const Fails& fails) {
  for (std::size_t i = 0; i < history.size(); ++i) {
    const auto attempt = [&](auto change) {
      std::vector<Step> changed = history;
      change(changed[i]);
      if (fails(changed)) history = changed;
    };
    attempt([](Step& step) { step.thread = 0; });
    attempt([](Step& step) { step.pool = 0; });
    attempt([](Step& step) { step.stream = 0; });
    attempt([](Step& step) { step.num_bytes = 0; });
  }
}

template <class Pool>
std::vector<Step> smallest(std::vector<Step> history, const Setting& setting) {
  const auto fails = [&](const std::vector<Step>& steps) { return !outcome_of<Pool>(steps, setting).fault.empty(); };
  for (std::size_t before = 0; before != history.size();) {
    before = history.size();
    leave_out(history, fails);
    simplify(history, fails);
  }
  return history;
}

// What is printed of a failing history.
template <class Pool>
std::string report_of(const std::vector<Step>& history, const Setting& setting) {
  const std::vector<Step> steps = smallest<Pool>(history, setting);
  std::ostringstream report;
  report << outcome_of<Pool>(steps, setting).fault << "\nafter " << steps.size() << " steps:\n";
  for (const Step& step : steps) report << step;
  return report.str();
}
