// What Python hands over and takes back: arrays and bytes, checked on the way.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "dispatch.h"

namespace abaci {

namespace nb = nanobind;

using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

inline const KernelTable* kernels_of(const std::string& target) {
    for (const KernelTable* table : available_kernels())
        if (target == table->name) return table;
    throw std::invalid_argument("this processor has no target '" + target + "'");
}

// A contiguous object's bytes, for as long as this lives.
class Bytes {
  public:
    Bytes(nb::handle object, bool writable = false) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw nb::python_error();
    }
    ~Bytes() { PyBuffer_Release(&view_); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    size_t size() const { return static_cast<size_t>(view_.len); }
    template <class T>
    T* as() const {
        return static_cast<T*>(view_.buf);
    }
    template <class T>
    int64_t count(const char* name) const {
        require(size() % sizeof(T) == 0, name);
        return static_cast<int64_t>(size() / sizeof(T));
    }

  private:
    Py_buffer view_;
};

template <class T>
inline nb::ndarray<nb::numpy, T> new_array(std::vector<size_t> shape) {
    size_t count = 1;
    for (size_t n : shape) count *= n;
    auto* data = new T[count]();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner);
}

}  // namespace abaci
