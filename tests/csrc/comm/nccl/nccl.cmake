# The NCCL communicator over the stand-in library and the emulated runtime. Included where the emulation is set up.
set(NCCL_TESTS ${CMAKE_SOURCE_DIR}/tests/csrc/comm/nccl)
list(TRANSFORM NCCL_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/)
add_library(emulated_nccl OBJECT ${NCCL_SOURCES} ${NCCL_TESTS}/stand_in/nccl.cpp ${NCCL_TESTS}/stand_in/world.cpp)
target_compile_definitions(emulated_nccl PRIVATE PP_ISA=isa_baseline)
use_precompiled(emulated_nccl emulated_kernels)
foreach(name algorithms_test communicator_test failures_test library_test)
  add_emulation_program(comm_nccl_${name} ${NCCL_TESTS}/${name}.cpp $<TARGET_OBJECTS:emulated_nccl>
                        ${CPU_OBJECTS} $<TARGET_OBJECTS:emulated_kernels>)
  target_compile_definitions(comm_nccl_${name} PRIVATE PP_ISA=isa_baseline)
  add_test(NAME comm/nccl/${name} COMMAND comm_nccl_${name})
  set_tests_properties(comm/nccl/${name} PROPERTIES TIMEOUT 300)
endforeach()

# Libraries with a part of NCCL's names, in a folder where nothing else finds them.
function(add_nccl_names target output)
  add_library(${target} SHARED ${NCCL_TESTS}/stand_in/names.cpp)
  target_compile_definitions(${target} PRIVATE ${ARGN})
  set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX "" OUTPUT_NAME ${output}
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/nccl_libraries)
  add_dependencies(comm_nccl_library_test ${target})
endfunction()
add_nccl_names(nccl_names_complete libnccl_complete.so FAKE_VERSION=22304)
add_nccl_names(nccl_names_old libnccl_old.so FAKE_VERSION=2408)
add_nccl_names(nccl_names_part libnccl_part.so FAKE_VERSION=22304 FAKE_PART=1)
add_nccl_names(nccl_names_loaded libnccl.so.2 FAKE_VERSION=23000)
