# Runs PROGRAM for SECONDS. New inputs are kept beside the program and serve the next run too, as do
# those that broke it; a failure is printed with the command that repeats it.
get_filename_component(folder ${PROGRAM} DIRECTORY)
file(MAKE_DIRECTORY ${folder}/found ${folder}/broken)
set(corpora ${folder}/found ${folder}/broken)
if(IS_DIRECTORY ${CORPUS})
  list(APPEND corpora ${CORPUS})
endif()
execute_process(COMMAND ${PROGRAM} -max_total_time=${SECONDS} -timeout=10 -rss_limit_mb=2048 -max_len=65536
                        -print_final_stats=1 -verbosity=0 -artifact_prefix=${folder}/broken/ ${corpora}
                RESULT_VARIABLE code)
if(code)
  file(GLOB broken ${folder}/broken/*)
  message(FATAL_ERROR "The fuzzer found an input that breaks the program; repeat with: ${PROGRAM} ${broken}")
endif()
