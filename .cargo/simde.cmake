# Read by every CMake build that cargo starts in this workspace, so it does
# one thing only and names no compiler: where the system has SIMDe's headers,
# FetchContent takes those and does not clone the repository. Without them
# CMake fetches as upstream means it to.
foreach(simde_dir /usr/include/simde /usr/local/include/simde)
  if(EXISTS "${simde_dir}/wasm/simd128.h" AND NOT DEFINED FETCHCONTENT_SOURCE_DIR_SIMDE)
    set(FETCHCONTENT_SOURCE_DIR_SIMDE "${simde_dir}" CACHE PATH "SIMDe's headers")
  endif()
endforeach()
unset(simde_dir)
