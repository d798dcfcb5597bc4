# Files of one folder are compiled several at a time: they share the price of reading libtorch, and a
# build from nothing takes a third of the time. So the names in a folder's anonymous namespaces are
# its own, each once. -DCMAKE_UNITY_BUILD=OFF compiles every file alone.
option(CMAKE_UNITY_BUILD "compile several files of a folder at once" ON)

# formwork_unity(TARGET): groups TARGET's files by folder, at most seven a group, of even size.
function(formwork_unity target)
  get_target_property(sources ${target} SOURCES)
  set(folders "")
  foreach(source IN LISTS sources)
    cmake_path(GET source PARENT_PATH folder)
    cmake_path(RELATIVE_PATH folder BASE_DIRECTORY ${CMAKE_SOURCE_DIR})
    string(MAKE_C_IDENTIFIER "${folder}" folder)
    list(APPEND folders ${folder})
    list(APPEND in_${folder} ${source})
  endforeach()
  list(REMOVE_DUPLICATES folders)
  foreach(folder IN LISTS folders)
    list(LENGTH in_${folder} files)
    math(EXPR groups "(${files} + 6) / 7")
    set(index 0)
    foreach(source IN LISTS in_${folder})
      math(EXPR group "${index} * ${groups} / ${files}")
      set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${folder}_${group})
      math(EXPR index "${index} + 1")
    endforeach()
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD_MODE GROUP)
endfunction()
