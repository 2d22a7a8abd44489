# Tests of the tests: each planted fault must be reported by the build that is said to find it, its twin by none.
file(GLOB PLANTED_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
add_emulation_program(emulation_planted ${PLANTED_SOURCES})

# add_planted(NAME PLAIN text ADDRESS text THREAD text): what the report of each build must match; a build that is not
# named cannot find the fault and runs the twin only.
function(add_planted name)
  cmake_parse_arguments(REPORT "" "ANY;PLAIN;ADDRESS;THREAD" "" ${ARGN})
  if(PYPARALLEL_SANITIZE MATCHES "thread")
    set(report ${REPORT_THREAD} ${REPORT_ANY})
  elseif(PYPARALLEL_SANITIZE MATCHES "address")
    set(report ${REPORT_ADDRESS} ${REPORT_ANY})
  else()
    set(report ${REPORT_PLAIN} ${REPORT_ANY})
  endif()
  add_test(NAME emulation/planted/${name}
           COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:emulation_planted> -DFAULT=${name} "-DREPORT=${report}"
                   -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/check_report.cmake)
  set_tests_properties(emulation/planted/${name} PROPERTIES TIMEOUT 60)
endfunction()

set(RACE "WARNING: ThreadSanitizer: data race")
set(OVERRUN "ERROR: AddressSanitizer: heap-buffer-overflow")
set(WRONG_VALUE " is .*, not ")

# Memory
add_planted(vector_tail ADDRESS ${OVERRUN})
add_planted(static_shared_overrun ADDRESS ${OVERRUN})
add_planted(dynamic_shared_overrun ADDRESS ${OVERRUN})
add_planted(misaligned_store ADDRESS "runtime error: store to misaligned address")
add_planted(host_dereference ADDRESS "ERROR: AddressSanitizer: use-after-poison")
add_planted(unwritten_shared ANY ".* is -?nan, not 32")
# Threads of a block
add_planted(missing_first_barrier PLAIN ${WRONG_VALUE} ADDRESS ${WRONG_VALUE} THREAD ${RACE})
add_planted(missing_second_barrier PLAIN ${WRONG_VALUE} ADDRESS ${WRONG_VALUE} THREAD ${RACE})
add_planted(plain_add_by_blocks THREAD ${RACE})
add_planted(divergent_barrier ANY "divergent barrier.*threads 0 to 15 wait in __syncthreads at .*threads 16 to 1[67]")
add_planted(divergent_shuffle ANY "deadlock.*threads 0 to 15 wait in __shfl_xor_sync at .*threads 16 to 31 wait in __sync")
add_planted(large_block ANY "cudaErrorInvalidConfiguration")
# Streams
add_planted(missing_synchronize PLAIN ${WRONG_VALUE} ADDRESS ${WRONG_VALUE} THREAD ${RACE})
add_planted(free_across_streams ADDRESS "ERROR: AddressSanitizer: heap-use-after-free" THREAD ${RACE})
add_planted(reuse_across_streams PLAIN ${WRONG_VALUE} ADDRESS ${WRONG_VALUE} THREAD ${RACE})
