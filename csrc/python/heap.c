/* heap.c - a plugin works on one large thing after the other: what a call has freed is to be there
 * for the next one, and not to be taken from the kernel again page by page.
 *
 * glibc learns that by itself, up to its own bound, from what is freed; it starts low, though, and
 * arrays of some megabytes leave it below what a few of them take.  It is told that bound at once.
 * Elsewhere there is nothing to tell. */
#include "state.h"

#ifdef __GLIBC__
#include <malloc.h>
#define LEARNS_UP_TO (32 << 20) /* bytes: DEFAULT_MMAP_THRESHOLD_MAX; the top may be twice that */
#endif

PyObject *bnd_keep_freed_memory_method(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
#ifdef __GLIBC__
    return PyBool_FromLong(mallopt(M_MMAP_THRESHOLD, LEARNS_UP_TO) == 1 &&
                           mallopt(M_TRIM_THRESHOLD, 2 * LEARNS_UP_TO) == 1);
#else
    Py_RETURN_FALSE;
#endif
}
