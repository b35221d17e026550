# Looks for what llama.cpp's Vulkan backend is built with, before anything is compiled: it takes ten minutes, and its own words
# name no package. Sets SCOPE_VULKAN_LACKS to one line, empty if all is there. Takes the variables that CMake's own search takes
# (Vulkan_INCLUDE_DIR, Vulkan_LIBRARY, Vulkan_GLSLC_EXECUTABLE, SPIRV-Headers_DIR, VULKAN_SDK).

set(_vulkan_sdk "$ENV{VULKAN_SDK}")
find_path(Vulkan_INCLUDE_DIR vulkan/vulkan_core.h HINTS "${_vulkan_sdk}/include")
find_library(Vulkan_LIBRARY NAMES vulkan vulkan-1 libvulkan.so HINTS "${_vulkan_sdk}/lib" "${_vulkan_sdk}/Lib")
find_program(Vulkan_GLSLC_EXECUTABLE glslc HINTS "${_vulkan_sdk}/bin" "${_vulkan_sdk}/Bin")
find_path(_spirv_headers SPIRV-HeadersConfig.cmake NO_CACHE
    HINTS "${SPIRV-Headers_DIR}" "${_vulkan_sdk}"
    PATH_SUFFIXES share/cmake/SPIRV-Headers lib/cmake/SPIRV-Headers)

# names of Debian's and Ubuntu's packages, of Fedora's, of Arch's
set(_lacks "")
set(_debian "")
set(_fedora "")
set(_arch "")
macro(_vulkan_needs is_there what debian fedora arch)
    if(NOT ${is_there})
        list(APPEND _lacks "${what}")
        list(APPEND _debian ${debian})
        list(APPEND _fedora ${fedora})
        list(APPEND _arch ${arch})
    endif()
endmacro()
_vulkan_needs(Vulkan_INCLUDE_DIR "the headers of Vulkan" libvulkan-dev vulkan-headers vulkan-headers)
_vulkan_needs(Vulkan_LIBRARY "the loader of Vulkan" libvulkan-dev vulkan-loader-devel vulkan-icd-loader)
_vulkan_needs(Vulkan_GLSLC_EXECUTABLE "glslc" glslc glslc shaderc)
_vulkan_needs(_spirv_headers "SPIRV-Headers" spirv-headers spirv-headers-devel spirv-headers)

set(SCOPE_VULKAN_LACKS "")
if(_lacks)
    foreach(_names _debian _fedora _arch)
        list(REMOVE_DUPLICATES ${_names})
        list(JOIN ${_names} " " ${_names})
    endforeach()
    list(JOIN _lacks ", " _lacks)
    string(CONCAT SCOPE_VULKAN_LACKS "the Vulkan backend needs what was not found: ${_lacks} (Debian, Ubuntu: apt install ${_debian};"
        " Fedora: dnf install ${_fedora}; Arch: pacman -S ${_arch}; others: the Vulkan SDK, with VULKAN_SDK set to its folder)")
else()
    # the newest part of the headers that llama.cpp takes without asking for it
    file(STRINGS "${Vulkan_INCLUDE_DIR}/vulkan/vulkan_core.h" _newest REGEX "^#define VK_EXT_layer_settings 1")
    file(STRINGS "${Vulkan_INCLUDE_DIR}/vulkan/vulkan_core.h" _version REGEX "^#define VK_HEADER_VERSION [0-9]+")
    if(NOT _newest)
        string(REGEX MATCH "[0-9]+" _version "${_version}")
        string(CONCAT SCOPE_VULKAN_LACKS "the headers of Vulkan in ${Vulkan_INCLUDE_DIR} are too old (version ${_version}, as Debian 12 has"
            " them): llama.cpp takes VK_EXT_layer_settings; give newer ones, as Debian 13 and Ubuntu 24.04 have, with"
            " -C cmake.define.Vulkan_INCLUDE_DIR=FOLDER, or the Vulkan SDK with VULKAN_SDK set to its folder")
    endif()
endif()
