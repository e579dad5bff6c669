# Fails unless the objects of the kernels keep to themselves: cmake -DNM=nm "-DOBJECTS=a.o;b.o" -P check_kernel_objects.cmake
#
# Of a weak symbol, such as an inline function of a header leaves behind, the linker keeps one copy for the whole program.
# If that copy was compiled for AVX-512, the portable kernels die of it on another processor.

foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  # Lines end in "<type> <name>". Weak: V v W w; unique: u.
  string(REGEX MATCHALL "[^\n]* [VvWwu] [^\n]+" shared "${symbols}")
  # The standard library, exceptions, allocation.
  string(REGEX MATCHALL "[^\n]* U _*(ZN?K?S[at]|cxa_|gxx_|Unwind_|Zn[wa]|Zd[la])[^\n]*" foreign "${symbols}")
  if(shared OR foreign)
    list(JOIN shared "\n" shared)
    list(JOIN foreign "\n" foreign)
    message(FATAL_ERROR "${object} has weak symbols or uses the C++ runtime:\n${shared}\n${foreign}")
  endif()
endforeach()
