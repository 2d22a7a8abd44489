# The NCCL communicator over the stand-in library and the emulated runtime. Included where the emulation is set up.
set(NCCL_TESTS ${CMAKE_SOURCE_DIR}/tests/csrc/comm/nccl)
list(TRANSFORM NCCL_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/)
add_library(emulated_nccl OBJECT ${NCCL_SOURCES} ${NCCL_TESTS}/stand_in/nccl.cpp ${NCCL_TESTS}/stand_in/world.cpp)
target_compile_definitions(emulated_nccl PRIVATE PP_ISA=isa_baseline)
foreach(name communicator_test)
  add_emulation_program(comm_nccl_${name} emulator ${NCCL_TESTS}/${name}.cpp $<TARGET_OBJECTS:emulated_nccl>
                        ${CPU_OBJECTS} $<TARGET_OBJECTS:emulated_kernels>)
  target_compile_definitions(comm_nccl_${name} PRIVATE PP_ISA=isa_baseline)
  add_test(NAME comm/nccl/${name} COMMAND comm_nccl_${name})
  set_tests_properties(comm/nccl/${name} PROPERTIES TIMEOUT 300)
endforeach()
