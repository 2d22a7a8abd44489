#include "memory/python_sites.hpp"

#include <pthread.h>

#include <array>
#include <deque>
#include <span>
#include <unordered_map>

#include "bindings.hpp"

namespace pyparallel {
namespace {

using memory::CallSite;

struct Place {
  PyCodeObject* code;
  int instruction;
  bool operator==(const Place&) const = default;
};
using Places = std::span<const Place>;

struct HashPlaces {
  using is_transparent = void;
  std::size_t operator()(Places places) const {
    std::size_t hash = places.size();
    for (const Place& place : places) {
      hash = (hash ^ reinterpret_cast<std::uintptr_t>(place.code)) * 0x9e3779b97f4a7c15u;
      hash = (hash ^ static_cast<std::size_t>(place.instruction) ^ hash >> 29) * 0xbf58476d1ce4e5b9u;
    }
    return hash ^ hash >> 32;
  }
};
struct EqualPlaces {
  using is_transparent = void;
  bool operator()(Places a, Places b) const { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }
};

std::string text_of(const std::vector<Frame>& frames) {
  std::string text;
  for (const Frame& frame : frames) text += frame.file + ':' + std::to_string(frame.line) + ':' + frame.function + '\n';
  return text;
}

// Of the process. No Python is called while its lock is held: a thread that waits for the lock may have the GIL.
class Table {
 public:
  std::optional<CallSite> find(Places places) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_place_.find(places);
    return found == by_place_.end() ? std::nullopt : std::optional(found->second);
  }
  // The caller has given its references of the code to the table.
  CallSite add(Places places, std::vector<Frame> frames) {
    std::string text = text_of(frames);
    std::lock_guard<std::mutex> lock(mutex_);
    const auto [entry, is_new] = by_text_.try_emplace(std::move(text), static_cast<CallSite>(sites_.size() + 1));
    if (is_new) sites_.push_back(std::move(frames));
    by_place_.emplace(std::vector<Place>(places.begin(), places.end()), entry->second);
    return entry->second;
  }
  std::vector<Frame> frames_of(CallSite site) {
    std::lock_guard<std::mutex> lock(mutex_);
    return site == 0 || site > sites_.size() ? std::vector<Frame>{} : sites_[site - 1];
  }
  // Around a fork, so that the child's copy is whole and free.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
  std::unordered_map<std::vector<Place>, CallSite, HashPlaces, EqualPlaces> by_place_;
  std::unordered_map<std::string, CallSite> by_text_;
  std::deque<std::vector<Frame>> sites_;
};

// Outlives the interpreter and every pool.
Table& table() {
  static auto* const only = new Table;
  [[maybe_unused]] static const int installed =
      pthread_atfork([] { only->lock(); }, [] { only->unlock(); }, [] { only->unlock(); });
  return *only;
}

thread_local std::optional<CallSite> held_site;

bool has_gil() {
  if (!Py_IsInitialized()) return false;
  PyThreadState* const own = PyGILState_GetThisThreadState();
  return own != nullptr && own == py::detail::get_thread_state_unchecked();
}

std::string attribute(PyCodeObject* code, const char* name) {
  const auto value = py::reinterpret_steal<py::object>(PyObject_GetAttrString(reinterpret_cast<PyObject*>(code), name));
  const auto bytes = py::reinterpret_steal<py::object>(
      value ? PyUnicode_AsEncodedString(value.ptr(), "utf-8", "backslashreplace") : nullptr);
  if (bytes) return PyBytes_AS_STRING(bytes.ptr());
  PyErr_Clear();
  return "?";
}

// Calls `visit(frame, code)` from the innermost frame outwards, until it returns false. Frame and code are borrowed:
// what runs cannot go away.
template <class Visit>
void walk(const Visit& visit) {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  while (frame != nullptr) {
    PyCodeObject* const code = PyFrame_GetCode(frame);
    const bool on = visit(frame, code);
    Py_DECREF(code);
    PyFrameObject* const back = on ? PyFrame_GetBack(frame) : nullptr;
    Py_DECREF(frame);
    frame = back;
  }
}

CallSite add_site(Places places, std::size_t most, const std::string& own) {
  const py::error_scope pending;  // an allocation may happen while an exception is on its way
  std::vector<Frame> frames;
  std::size_t seen = 0;
  walk([&](PyFrameObject* frame, PyCodeObject* code) {
    Py_INCREF(code);
    Frame made{attribute(code, "co_filename"), attribute(code, "co_qualname"), PyFrame_GetLineNumber(frame)};
    const bool is_own = frames.empty() && made.file.starts_with(own);
    if (!is_own && frames.size() < most) frames.push_back(std::move(made));
    return ++seen < places.size();
  });
  return frames.empty() ? 0 : table().add(places, std::move(frames));
}

}  // namespace

// A collection of garbage that begins in here may run finalizers that come here again: nothing is half done then.
CallSite PythonSites::here() noexcept {
  if (held_site) return *held_site;
  if (frames_ == 0 || !has_gil()) return 0;
  constexpr int kOwnFrames = 4;  // that an allocator has at most before its caller's
  std::array<Place, kMostFrames + kOwnFrames> places;
  const std::size_t most = frames_ + kOwnFrames;
  std::size_t count = 0;
  walk([&](PyFrameObject* frame, PyCodeObject* code) {
    places[count++] = {code, PyFrame_GetLasti(frame)};
    return count < most;
  });
  if (count == 0) return 0;
  const Places found(places.data(), count);
  if (const auto known = table().find(found)) return *known;
  try {
    return add_site(found, frames_, own_);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

std::string PythonSites::describe(CallSite site) const {
  const std::vector<Frame> frames = frames_of(site);
  if (frames.empty()) return {};
  const Frame& first = frames.front();
  return first.file + ':' + std::to_string(first.line) + " in " + first.function;
}

std::vector<Frame> PythonSites::frames_of(CallSite site) { return table().frames_of(site); }

HeldSite::HeldSite(memory::Observer* observer) : before_(held_site) {
  held_site.reset();
  if (observer != nullptr) held_site = observer->call_site();
}

HeldSite::~HeldSite() { held_site = before_; }

}  // namespace pyparallel
