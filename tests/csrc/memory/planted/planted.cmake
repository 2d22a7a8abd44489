# Tests of the tests: pools with one planted fault each, which random histories must find, with both uses of the race.
#
# The rest of the pool comes from a library, so that each fault costs one compilation.
if(PYPARALLEL_SANITIZE)
  return()  # what finds them is the same there
endif()
add_library(memory_of_planted STATIC ${OBJECTS})
add_library(planted_histories OBJECT ${CMAKE_CURRENT_LIST_DIR}/histories.cpp)
target_include_directories(planted_histories PRIVATE ${CMAKE_SOURCE_DIR}/tests/csrc)

# plant(NAME SOURCE LINE BY REPORT): `LINE` of csrc/memory/SOURCE becomes `BY`; what is found must match REPORT.
# More arguments go to the program.
function(plant name source line by report)
  set(original ${CMAKE_SOURCE_DIR}/csrc/memory/${source})
  set(planted ${CMAKE_CURRENT_BINARY_DIR}/planted/${name}.cpp)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${original})
  file(READ ${original} text)
  string(FIND "${text}" "${line}" found)
  if(found EQUAL -1)
    add_test(NAME memory/planted/${name} COMMAND ${CMAKE_COMMAND} -E cat "no more in ${source}: ${line}")
    return()
  endif()
  string(REPLACE "${line}" "${by}" text "${text}")
  file(GENERATE OUTPUT ${planted} CONTENT "${text}")
  add_executable(memory_planted_${name} ${planted} $<TARGET_OBJECTS:planted_histories>)
  target_compile_options(memory_planted_${name} PRIVATE -O0 -w)
  target_link_libraries(memory_planted_${name} PRIVATE memory_of_planted Threads::Threads ${CMAKE_DL_LIBS})
  add_test(NAME memory/planted/${name} COMMAND memory_planted_${name} ${ARGN})
  set_tests_properties(memory/planted/${name} PROPERTIES TIMEOUT 120 PASS_REGULAR_EXPRESSION "${report}")
endfunction()

set(RACE "race: .* \\(stream .* and then .*knows of stream .* only")
# A pool that takes events of the wrong stream also keeps memory that it could give back.
set(RACE_OR_KEPT "${RACE}|bytes trimmed is [0-9]+, the pool says 0")
set(RELEASE "race: .* and then release to the upstream .the host.*the host knows of stream")
plant(cached_while_used pool.cpp "cache && block->users.empty() && cache->put(" "cache && cache->put("
      ${RACE})
plant(shared_before_passed pool_search.cpp "return passed || wait;" "return true;" ${RACE})
plant(stream_does_not_wait pool_search.cpp "if (!passed && wait) upstream_->wait(handle, event);" "" ${RACE})
plant(event_on_another_stream pool_search.cpp "upstream_->record(of_user.stream)"
      "upstream_->record(streams_.begin()->second.stream)"
      ${RACE_OR_KEPT})
plant(block_keeps_its_stream pool_search.cpp "    block->stream = stream;\n" "" ${RACE})
plant(keyed_by_handle pool_search.cpp "return upstream_->identity(streamed.stream) == id;" "return true;"
      ${RACE_OR_KEPT})
plant(released_while_in_use pool.cpp "const bool over = wait_for(streams_of_blocks());" "const bool over = true;"
      ${RELEASE})
plant(waits_for_one_stream_too_few pool_search.cpp "if (!free.blocks().empty()) result.insert(id);" "" ${RACE})
plant(waits_during_capture pool_search.cpp "if (any_captures(streams)) return false;" ""
      "the pool records an event on a captured stream" captures)
plant(waits_for_the_device pool_search.cpp "const bool takes_events = streamed.has_last || means(id, streamed);"
      "const bool takes_events = false;"
      "the host waits for the device while a stream is captured" captures)
