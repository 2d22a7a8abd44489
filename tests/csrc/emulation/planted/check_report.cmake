# cmake -DPROGRAM= -DFAULT= -DREPORT= -P check_report.cmake: the faulty program fails with this report, the fixed one is
# silent. An empty REPORT: only the latter.
set(any_report "ERROR: AddressSanitizer|WARNING: ThreadSanitizer|runtime error:|emulated CUDA:")

execute_process(COMMAND ${PROGRAM} ${FAULT} fixed RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT result EQUAL 0 OR output MATCHES "${any_report}")
  message(FATAL_ERROR "${FAULT}: the fixed twin failed (${result}):\n${output}")
endif()
if(REPORT)
  execute_process(COMMAND ${PROGRAM} ${FAULT} faulty RESULT_VARIABLE result OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(result EQUAL 0)
    message(FATAL_ERROR "${FAULT}: the planted fault passed:\n${output}")
  elseif(NOT output MATCHES "${REPORT}")
    message(FATAL_ERROR "${FAULT}: failed (${result}) without \"${REPORT}\":\n${output}")
  endif()
  string(SUBSTRING "${output}" 0 2000 output)
  message("${output}")
endif()
