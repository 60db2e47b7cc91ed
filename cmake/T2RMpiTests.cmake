# Tests on real MPI ranks: include after enable_testing().
#
# The flags let more ranks than cores run, and a root user (in a container) too; the bounds end a job
# whose ranks hang.
find_program(T2R_MPIRUN mpirun REQUIRED)
set(T2R_MPIRUN_COMMAND timeout -k 5 120 ${T2R_MPIRUN} --oversubscribe --bind-to none)
set(T2R_MPI_ENVIRONMENT OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    OMP_NUM_THREADS=1)

# t2r_mpi_test(name ranks program arguments...): passes when every rank exits with 0, or, where one of
# the properties PASS_REGULAR_EXPRESSION and WILL_FAIL is set afterwards, as these say.
function(t2r_mpi_test name ranks program)
  add_test(NAME mpi.${name}.${ranks}
           COMMAND ${T2R_MPIRUN_COMMAND} -np ${ranks} $<TARGET_FILE:${program}> ${ARGN})
  set_tests_properties(mpi.${name}.${ranks} PROPERTIES ENVIRONMENT "${T2R_MPI_ENVIRONMENT}"
                       TIMEOUT 150 PROCESSORS 2)
endfunction()

add_executable(mpi_comm_ranks ${PROJECT_SOURCE_DIR}/tests/mpi/comm_ranks.cpp)
target_link_libraries(mpi_comm_ranks PRIVATE t2r_dist t2r_warnings)

foreach(ranks 1 2 3 4)
  t2r_mpi_test(cases ${ranks} mpi_comm_ranks cases)
endforeach()
t2r_mpi_test(cases_checked 2 mpi_comm_ranks cases checking)

# A job that must end by itself, with the sentence of the rank that found the fault.
t2r_mpi_test(disagree 3 mpi_comm_ranks disagree checking)
set_tests_properties(mpi.disagree.3 PROPERTIES PASS_REGULAR_EXPRESSION
  "rank 0 called all_reduce\\(sum of 1 fp64\\), ranks 1-2 called all_reduce\\(max of 1 fp64\\)")
t2r_mpi_test(throw 2 mpi_comm_ranks throw)
set_tests_properties(mpi.throw.2 PROPERTIES PASS_REGULAR_EXPRESSION
                     "\\[rank 1\\] warning: rank 1 fails on purpose")
t2r_mpi_test(exit 2 mpi_comm_ranks exit)
set_tests_properties(mpi.exit.2 PROPERTIES PASS_REGULAR_EXPRESSION "Exit code: *3")
t2r_mpi_test(differ 2 mpi_comm_ranks differ)
set_tests_properties(mpi.differ.2 PROPERTIES PASS_REGULAR_EXPRESSION
  "different collectives after 1 s: rank 0 on .* for collective number 1, barrier, rank 1 for number 1, broadcast")
t2r_mpi_test(outside 3 mpi_comm_ranks outside)
set_tests_properties(mpi.outside.3 PROPERTIES PASS_REGULAR_EXPRESSION
  "warning: rank 2 on .* does not answer after 1 s: .* waits for collective number 1, barrier")

# Started by the launcher of another MPI: the variables say 2, this MPI counts 1.
add_test(NAME mpi.mixed_launcher COMMAND mpi_comm_ranks)
set_tests_properties(mpi.mixed_launcher PROPERTIES TIMEOUT 60
                     ENVIRONMENT "${T2R_MPI_ENVIRONMENT};PMI_SIZE=2;PMI_RANK=0"
                     PASS_REGULAR_EXPRESSION "started 2 processes, but MPI counts 1 rank:")
add_test(NAME mpi.no_launcher COMMAND mpi_comm_ranks)
set_tests_properties(mpi.no_launcher PROPERTIES TIMEOUT 60 PASS_REGULAR_EXPRESSION
                     "passed: cases on 1 ranks of self")

add_executable(mpi_train_ranks ${PROJECT_SOURCE_DIR}/tests/mpi/train_ranks.cpp)
target_link_libraries(mpi_train_ranks PRIVATE t2r_train t2r_warnings GTest::gtest)
foreach(ranks 2 4)
  t2r_mpi_test(train ${ranks} mpi_train_ranks)
endforeach()
