# Removes `folder`, in which a part of llama.cpp is built by itself, if the program that built there is gone. pip builds with
# programs of a folder that it removes afterwards, and such a part would look for them there when it is built again.

function(scope_forget_dead_build folder)
    file(GLOB_RECURSE caches "${folder}/CMakeCache.txt")
    foreach(cache IN LISTS caches)
        file(STRINGS "${cache}" program REGEX "^CMAKE_MAKE_PROGRAM:[A-Z]+=")
        string(REGEX REPLACE "^[^=]*=" "" program "${program}")
        if(program AND NOT EXISTS "${program}")
            message(STATUS "scope-cpp: ${folder} is built anew: ${program} is gone")
            file(REMOVE_RECURSE "${folder}")
            return()
        endif()
    endforeach()
endfunction()
