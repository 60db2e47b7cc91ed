# One CMake library a layer: a source that includes past its layer's dependencies fails to link.
function(t2r_layer name folder)
  cmake_parse_arguments(LAYER "" "" "LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${LAYER_LINKS} PRIVATE t2r_warnings)
endfunction()

# One test program a layer, from tests/<folder>/*.cpp.
function(t2r_tests folder)
  cmake_parse_arguments(TESTS "" "" "LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${folder}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${folder} ${sources})
  target_link_libraries(test_${folder} PRIVATE ${TESTS_LINKS} t2r_warnings GTest::gtest_main)
  target_compile_options(test_${folder} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_precompile_headers(test_${folder} PRIVATE <gtest/gtest.h> <fmt/format.h>)
  target_compile_definitions(test_${folder} PRIVATE T2R_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             T2R_BINARY_DIR="${PROJECT_BINARY_DIR}")
  gtest_discover_tests(test_${folder} TEST_PREFIX ${folder}. DISCOVERY_TIMEOUT 60
                       PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=2" TIMEOUT 300)
endfunction()
