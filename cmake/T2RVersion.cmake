# generated/t2r_version.h: version and commit, looked up at every build and rewritten only on change.
# Run as a script (-P) it writes the header; included, it adds the target that does so.
if(CMAKE_SCRIPT_MODE_FILE)
  set(T2R_COMMIT "")
  find_program(GIT git)
  if(GIT)
    execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty=-modified --abbrev=12
                            --exclude=* OUTPUT_VARIABLE T2R_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE
                    ERROR_QUIET)
  endif()
  if(NOT T2R_COMMIT)
    set(T2R_COMMIT "unknown commit")
  endif()
  configure_file(${SOURCE}/cmake/t2r_version.h.in ${OUT})
  return()
endif()

function(t2r_add_version target)
  set(folder ${PROJECT_BINARY_DIR}/generated)
  add_custom_target(t2r_version BYPRODUCTS ${folder}/t2r_version.h
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DOUT=${folder}/t2r_version.h
            -DVERSION=${PROJECT_VERSION} -P ${PROJECT_SOURCE_DIR}/cmake/T2RVersion.cmake
    VERBATIM)
  add_dependencies(${target} t2r_version)
  target_include_directories(${target} PRIVATE ${folder})
endfunction()
