/* args.c - see args.h. */
#include "args.h"

#include <math.h>

static int find_name(hub_state *state, const hub_args_spec *spec, PyObject *key)
{
    for (int i = 0; i < spec->count; i++)
        if (state->names[spec->names[i]] == key)
            return i;
    /* A key built at run time (**kwargs) need not be interned. */
    for (int i = 0; i < spec->count; i++)
        if (PyUnicode_Compare(key, state->names[spec->names[i]]) == 0)
            return i;
    return -1;
}

static int unpack_keywords(hub_state *state, const hub_args_spec *spec, PyObject *const *args,
                           PyObject *kwnames, PyObject **values)
{
    Py_ssize_t count = PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, k);
        int i = find_name(state, spec, key);
        if (i < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R",
                         spec->function, key);
            return -1;
        }
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument %R",
                         spec->function, key);
            return -1;
        }
        values[i] = args[k];
    }
    return 0;
}

int bnd_args_unpack(hub_state *state, const hub_args_spec *spec, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames, PyObject **values)
{
    for (int i = 0; i < spec->count; i++)
        values[i] = NULL;
    if (nargs > spec->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments, %zd were given",
                     spec->function, spec->positional, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        values[i] = args[i];
    if (kwnames != NULL && unpack_keywords(state, spec, args + nargs, kwnames, values) < 0)
        return -1;
    for (int i = 0; i < spec->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() misses its argument %R", spec->function,
                         state->names[spec->names[i]]);
            return -1;
        }
    }
    return 0;
}

/* A real number that is not NaN, or -1 with an exception. */
static int number_of(PyObject *value, const char *what, double *ret)
{
    double number;
    if (PyFloat_CheckExact(value)) {
        number = PyFloat_AS_DOUBLE(value);
    } else {
        number = PyFloat_AsDouble(value);
        if (number == -1.0 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_TypeError))
                PyErr_Format(PyExc_TypeError, "%s must be None or a number of seconds, not %.100s",
                             what, Py_TYPE(value)->tp_name);
            else if (PyErr_ExceptionMatches(PyExc_OverflowError))
                PyErr_Format(PyExc_ValueError, "%s is beyond any number of seconds", what);
            return -1;
        }
    }
    if (isnan(number)) {
        PyErr_Format(PyExc_ValueError, "%s must be None or a number of seconds, not NaN", what);
        return -1;
    }
    *ret = number;
    return 0;
}

int bnd_arg_timeout(PyObject *value, int64_t *ret_ns)
{
    *ret_ns = HUB_TIMEOUT_NONE;
    if (value == NULL || value == Py_None)
        return 0;
    double seconds;
    if (number_of(value, "timeout", &seconds) < 0)
        return -1;
    if (seconds < 0) {
        PyErr_Format(PyExc_ValueError, "timeout must be None or >= 0 seconds, not %R", value);
        return -1;
    }
    if (seconds < 9e9) /* longer than 285 years is for ever */
        *ret_ns = (int64_t)(seconds * 1e9);
    return 0;
}

int64_t bnd_arg_deadline_of(int64_t timeout_ns)
{
    if (timeout_ns == HUB_TIMEOUT_NONE)
        return HUB_FOREVER;
    int64_t now = hub_clock_ns();
    return timeout_ns >= HUB_FOREVER - now ? HUB_FOREVER : now + timeout_ns;
}

int bnd_arg_deadline(PyObject *value, int64_t *ret_ns)
{
    *ret_ns = 0;
    if (value == NULL || value == Py_None)
        return 0;
    double seconds;
    if (number_of(value, "deadline", &seconds) < 0)
        return -1;
    if (seconds >= 9e9) /* infinity, too: no deadline */
        return 0;
    int64_t ns = seconds > 0 ? (int64_t)(seconds * 1e9) : 0;
    *ret_ns = ns > 0 ? ns : 1; /* 0 would say that there is none */
    return 0;
}

int bnd_arg_unsigned(PyObject *value, const char *name, uint64_t max, uint64_t *ret)
{
    PyObject *index = NULL;
    if (!PyLong_CheckExact(value)) {
        if (!PyIndex_Check(value)) {
            PyErr_Format(PyExc_TypeError, "%s must be an int, not %.100s", name,
                         Py_TYPE(value)->tp_name);
            return -1;
        }
        index = PyNumber_Index(value);
        if (index == NULL)
            return -1;
    }
    unsigned long long number = PyLong_AsUnsignedLongLong(index != NULL ? index : value);
    Py_XDECREF(index);
    bool failed = number == (unsigned long long)-1 && PyErr_Occurred();
    if (failed && !PyErr_ExceptionMatches(PyExc_OverflowError))
        return -1;
    if (failed || number > max) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s must be from 0 to %llu, not %R", name,
                     (unsigned long long)max, value);
        return -1;
    }
    *ret = number;
    return 0;
}

int bnd_arg_buffer(PyObject *value, const char *function, Py_buffer *ret)
{
    if (!PyObject_CheckBuffer(value)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): a payload is bytes, a bytearray, a Slot, a Frame or anything else with "
                     "a buffer, not %.100s",
                     function, Py_TYPE(value)->tp_name);
        return -1;
    }
    if (PyObject_GetBuffer(value, ret, PyBUF_SIMPLE) == 0)
        return 0;
    /* Most exporters say "not C-contiguous" in words and classes of their own. */
    Py_buffer strided;
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (PyObject_GetBuffer(value, &strided, PyBUF_FULL_RO) < 0) {
        PyErr_Restore(type, error, traceback); /* not ours to explain */
        return -1;
    }
    bool contiguous = PyBuffer_IsContiguous(&strided, 'C');
    PyBuffer_Release(&strided);
    if (contiguous) {
        PyErr_Restore(type, error, traceback);
        return -1;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    PyErr_Format(PyExc_BufferError,
                 "%s(): the %.100s is not C-contiguous: make a contiguous copy of it first",
                 function, Py_TYPE(value)->tp_name);
    return -1;
}
