# End-to-end tests of the command line: Python's standard library around the program itself.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
foreach(name options whole_flow resume mesh faults kills bad_input quickstart scores translate import export teacher train_part recipes)
  add_test(NAME launch.${name}
           COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/launch/test_${name}.py)
  set_tests_properties(launch.${name} PROPERTIES
    ENVIRONMENT "T2R=$<TARGET_FILE:t2r>;PYTHONDONTWRITEBYTECODE=1" TIMEOUT 400 PROCESSORS 2)
endforeach()

# On several hosts, which are namespaces: skipped where these, root or Slurm are not to be had.
foreach(name slurm hosts)
  add_test(NAME launch.${name}
           COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/cluster/test_${name}.py)
  set_tests_properties(launch.${name} PROPERTIES SKIP_RETURN_CODE 77
    ENVIRONMENT "T2R=$<TARGET_FILE:t2r>;PYTHONDONTWRITEBYTECODE=1" TIMEOUT 400 PROCESSORS 2)
endforeach()
