/* plain_write.c - see plain.h. */
#include "plain.h"

#define LARGE 256   /* bytes-likes from here on go beside, when there is a beside */
#define SEEN_MAX 32 /* containers in a message with a limit */

typedef struct writer {
    char *data;
    size_t length, capacity, limit;
    PyObject *buffers; /* list, borrowed, or NULL */
    bool strict;       /* say what is wrong */
    bool unfit;        /* not plain, or beyond the limit: no exception */
    bool arrays;       /* those of numpy, too */
    unsigned seen_count;
    const PyObject *seen[SEEN_MAX];
    char first[1024];
} writer;

static int unfit(writer *w)
{
    w->unfit = true;
    return -1;
}

static int grow(writer *w, size_t more)
{
    if (more > w->limit || w->length > w->limit - more)
        return unfit(w);
    size_t capacity = w->capacity;
    while (capacity - w->length < more)
        capacity *= 2;
    char *data = w->data == w->first ? PyMem_Malloc(capacity) : PyMem_Realloc(w->data, capacity);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (w->data == w->first)
        memcpy(data, w->first, w->length);
    w->data = data;
    w->capacity = capacity;
    return 0;
}

static inline int room(writer *w, size_t more)
{
    if (w->capacity - w->length >= more && w->length + more <= w->limit)
        return 0;
    if (w->length + more <= w->limit)
        return grow(w, more);
    return unfit(w);
}

static inline void put_u32(char *target, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        target[i] = (char)(value >> (8 * i));
}

static inline void put_u64(char *target, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        target[i] = (char)(value >> (8 * i));
}

static int put_tag(writer *w, char tag)
{
    if (room(w, 1) < 0)
        return -1;
    w->data[w->length++] = tag;
    return 0;
}

static int put_number(writer *w, char tag, uint64_t value)
{
    if (room(w, 9) < 0)
        return -1;
    w->data[w->length] = tag;
    put_u64(w->data + w->length + 1, value);
    w->length += 9;
    return 0;
}

static int put_count(writer *w, char tag, size_t count)
{
    if (count > UINT32_MAX)
        return unfit(w);
    if (room(w, 5) < 0)
        return -1;
    w->data[w->length] = tag;
    put_u32(w->data + w->length + 1, (uint32_t)count);
    w->length += 5;
    return 0;
}

static int put_data(writer *w, char tag, const void *data, size_t length)
{
    if (length > UINT32_MAX)
        return unfit(w);
    if (room(w, 5 + length) < 0)
        return -1;
    put_count(w, tag, length);
    memcpy(w->data + w->length, data, length);
    w->length += length;
    return 0;
}

/* ---- values -------------------------------------------------------------- */
static int write_value(writer *w, PyObject *value, int depth);

static int write_big_int(writer *w, PyObject *value)
{
    PyObject *bits = PyObject_CallMethod(value, "bit_length", NULL);
    if (bits == NULL)
        return -1;
    size_t length = PyLong_AsSize_t(bits) / 8 + 1;
    Py_DECREF(bits);
    PyObject *to_bytes = PyObject_GetAttrString(value, "to_bytes");
    PyObject *args = Py_BuildValue("(ns)", (Py_ssize_t)length, "little");
    PyObject *kwargs = Py_BuildValue("{s:O}", "signed", Py_True);
    PyObject *bytes = NULL;
    if (to_bytes != NULL && args != NULL && kwargs != NULL)
        bytes = PyObject_Call(to_bytes, args, kwargs);
    Py_XDECREF(to_bytes);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    if (bytes == NULL)
        return -1;
    int rc = put_data(w, 'I', PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return rc;
}

static int write_int(writer *w, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0)
        return write_big_int(w, value);
    return put_number(w, 'i', (uint64_t)number);
}

static int write_str(writer *w, PyObject *value)
{
    Py_ssize_t length;
    if (PyUnicode_IS_COMPACT_ASCII(value))
        return put_data(w, 's', PyUnicode_DATA(value), (size_t)PyUnicode_GET_LENGTH(value));
    PyObject *bytes = PyUnicode_AsEncodedString(value, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return -1;
    length = PyBytes_GET_SIZE(bytes);
    int rc = put_data(w, 's', PyBytes_AS_STRING(bytes), (size_t)length);
    Py_DECREF(bytes);
    return rc;
}

/* A buffer that goes beside the message: `shape` of a memoryview was written before. */
static int put_beside(writer *w, char tag, PyObject *buffer)
{
    if (put_count(w, tag, (size_t)PyList_GET_SIZE(w->buffers)) < 0)
        return -1;
    return PyList_Append(w->buffers, buffer);
}

static int write_bytes_like(writer *w, char small, char large, PyObject *value, const void *data,
                            Py_ssize_t length)
{
    if (w->buffers != NULL && length >= LARGE)
        return put_beside(w, large, value);
    return put_data(w, small, data, (size_t)length);
}

/* A memoryview's format as memoryview.cast takes it, or 0. */
static char format_of(const Py_buffer *view)
{
    const char *format = view->format != NULL ? view->format : "B";
    if (*format == '@')
        format++;
    return format[0] != 0 && format[1] == 0 && strchr("cbB?hHiIlLqQnNfd", format[0]) != NULL
               ? format[0]
               : 0;
}

/* A tag, what the items are, and how many of them there are in each dimension. */
static int put_shape(writer *w, char tag, const void *items, size_t length, const Py_buffer *view)
{
    if (room(w, 2 + length + 8 * (size_t)view->ndim) < 0)
        return -1;
    char *p = w->data + w->length;
    *p++ = tag;
    memcpy(p, items, length);
    p += length;
    *p++ = (char)view->ndim;
    for (int i = 0; i < view->ndim; i++, p += 8)
        put_u64(p, (uint64_t)view->shape[i]);
    w->length = (size_t)(p - w->data);
    return 0;
}

static int write_shape(writer *w, char tag, const Py_buffer *view)
{
    char format = format_of(view);
    return put_shape(w, tag, &format, 1, view);
}

/* After a shape there is no tag but a number alone: put_count and put_data write one first. */
static void drop_tag(writer *w, size_t at)
{
    memmove(w->data + at, w->data + at + 1, w->length - at - 1);
    w->length--;
}

static int write_view_data(writer *w, PyObject *value, const Py_buffer *view, bool shaped)
{
    bool beside = w->buffers != NULL && view->len >= LARGE;
    if (shaped && write_shape(w, beside ? 'W' : 'M', view) < 0)
        return -1;
    size_t at = w->length;
    int rc;
    if (!PyBuffer_IsContiguous(view, 'C')) {
        PyObject *copy = PyBytes_FromStringAndSize(NULL, view->len);
        rc = copy == NULL ? -1
                          : PyBuffer_ToContiguous(PyBytes_AS_STRING(copy), view, view->len, 'C');
        if (rc == 0)
            rc = write_bytes_like(w, 'm', 'V', copy, PyBytes_AS_STRING(copy), view->len);
        Py_XDECREF(copy);
    } else {
        rc = write_bytes_like(w, 'm', 'V', value, view->buf, view->len);
    }
    if (rc == 0 && shaped)
        drop_tag(w, at);
    return rc;
}

static int write_view(writer *w, PyObject *value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_FULL_RO) < 0)
        return -1; /* a released memoryview: ValueError says so */
    char format = format_of(&view);
    bool bytes = format == 'B' && view.ndim == 1;
    int rc;
    if (format == 0 || view.ndim < 1 || view.ndim > BND_PLAIN_DIMENSIONS_MAX) {
        rc = w->strict ? (PyErr_Format(PyExc_TypeError,
                                       "a memoryview of format '%s' with %d dimensions is not "
                                       "plain data: send view.cast('B')",
                                       view.format != NULL ? view.format : "B", view.ndim),
                          -1)
                       : unfit(w);
    } else {
        rc = write_view_data(w, value, &view, !bytes && view.len > 0);
    }
    PyBuffer_Release(&view);
    return rc;
}

/* Is it exactly numpy's own type? No other static type has this name. */
static bool is_array(PyObject *value)
{
    const PyTypeObject *type = Py_TYPE(value);
    return !(type->tp_flags & Py_TPFLAGS_HEAPTYPE) && strcmp(type->tp_name, "numpy.ndarray") == 0;
}

/* dtype.str of plain numbers, NULL: something else, which a pickle can say. */
static PyObject *dtype_text(PyObject *array)
{
    PyObject *dtype = PyObject_GetAttrString(array, "dtype");
    PyObject *metadata = dtype == NULL ? NULL : PyObject_GetAttrString(dtype, "metadata");
    PyObject *builtin = metadata == NULL ? NULL : PyObject_GetAttrString(dtype, "isbuiltin");
    PyObject *text = NULL;
    if (builtin != NULL && metadata == Py_None && PyLong_AsLong(builtin) != 2)
        text = PyObject_GetAttrString(dtype, "str");
    Py_XDECREF(builtin);
    Py_XDECREF(metadata);
    Py_XDECREF(dtype);
    if (text != NULL && !(PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text) &&
                          bnd_plain_dtype_fits((const char *)PyUnicode_DATA(text),
                                               (size_t)PyUnicode_GET_LENGTH(text))))
        Py_CLEAR(text);
    return text;
}

static int put_array(writer *w, PyObject *dtype, const Py_buffer *view, PyObject *bytes)
{
    char items[1 + BND_PLAIN_DTYPE_MAX];
    size_t length = (size_t)PyUnicode_GET_LENGTH(dtype);
    items[0] = (char)length;
    memcpy(items + 1, PyUnicode_DATA(dtype), length);
    if (put_shape(w, 'n', items, 1 + length, view) < 0)
        return -1;
    size_t at = w->length;
    int rc = put_beside(w, 0, bytes);
    if (rc == 0)
        drop_tag(w, at);
    return rc;
}

/* A large array in C order; any other is a pickle's business. */
static int write_array(writer *w, PyObject *value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return unfit(w);
    }
    PyObject *dtype = NULL, *whole = NULL, *bytes = NULL;
    if (view.len >= LARGE && view.ndim >= 1 && view.ndim <= BND_PLAIN_DIMENSIONS_MAX)
        dtype = dtype_text(value);
    if (dtype != NULL)
        whole = PyPickleBuffer_FromObject(value);
    if (whole != NULL)
        bytes = PyObject_CallMethod(whole, "raw", NULL);
    int rc = -1;
    if (bytes != NULL)
        rc = put_array(w, dtype, &view, bytes);
    else if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_MemoryError))
        rc = (PyErr_Clear(), unfit(w));
    Py_XDECREF(bytes);
    Py_XDECREF(whole);
    Py_XDECREF(dtype);
    PyBuffer_Release(&view);
    return rc;
}

/* In a message with a limit, which a pickle would carry otherwise, one list that occurs
 * twice must arrive as one list: a pickle's business. */
static int enter(writer *w, PyObject *container, int depth)
{
    if (depth >= BND_PLAIN_DEPTH_MAX) {
        if (!w->strict)
            return unfit(w);
        PyErr_Format(PyExc_ValueError, "plain data may be nested %d deep, and not contain itself",
                     BND_PLAIN_DEPTH_MAX);
        return -1;
    }
    if (w->strict || PyTuple_CheckExact(container))
        return 0;
    for (unsigned i = 0; i < w->seen_count; i++)
        if (w->seen[i] == container)
            return unfit(w);
    if (w->seen_count == SEEN_MAX)
        return unfit(w);
    w->seen[w->seen_count++] = container;
    return 0;
}

static int write_tuple(writer *w, PyObject *value, int depth)
{
    Py_ssize_t count = PyTuple_GET_SIZE(value);
    if (enter(w, value, depth) < 0 || put_count(w, 't', (size_t)count) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++)
        if (write_value(w, PyTuple_GET_ITEM(value, i), depth + 1) < 0)
            return -1;
    return 0;
}

/* Other threads may change a list or a dict meanwhile, where encoding lets them run. */
static int changed(void)
{
    PyErr_SetString(PyExc_RuntimeError, "a list or dict was changed while it was being encoded");
    return -1;
}

static int write_list(writer *w, PyObject *value, int depth)
{
    Py_ssize_t count = PyList_GET_SIZE(value);
    if (enter(w, value, depth) < 0 || put_count(w, 'l', (size_t)count) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i >= PyList_GET_SIZE(value))
            return changed();
        PyObject *item = Py_NewRef(PyList_GET_ITEM(value, i));
        int rc = write_value(w, item, depth + 1);
        Py_DECREF(item);
        if (rc < 0)
            return -1;
    }
    return PyList_GET_SIZE(value) == count ? 0 : changed();
}

static int write_dict(writer *w, PyObject *value, int depth)
{
    Py_ssize_t position = 0, count = PyDict_GET_SIZE(value), written = 0;
    PyObject *key, *item;
    if (enter(w, value, depth) < 0 || put_count(w, 'd', (size_t)count) < 0)
        return -1;
    while (PyDict_Next(value, &position, &key, &item)) {
        Py_INCREF(key);
        Py_INCREF(item);
        int rc = write_value(w, key, depth + 1);
        if (rc == 0)
            rc = write_value(w, item, depth + 1);
        Py_DECREF(key);
        Py_DECREF(item);
        if (rc < 0)
            return -1;
        if (++written > count)
            return changed();
    }
    return written == count ? 0 : changed();
}

static int refuse(writer *w, PyObject *value)
{
    if (!w->strict)
        return unfit(w);
    PyErr_Format(PyExc_TypeError,
                 "%.200s is not plain data, which is None, bool, int, float, str, bytes, "
                 "bytearray, memoryview, list, tuple and dict",
                 Py_TYPE(value)->tp_name);
    return -1;
}

static int write_value(writer *w, PyObject *value, int depth)
{
    if (value == Py_None)
        return put_tag(w, 'N');
    if (PyBool_Check(value))
        return put_tag(w, value == Py_True ? 'T' : 'F');
    if (PyLong_CheckExact(value))
        return write_int(w, value);
    if (PyUnicode_CheckExact(value))
        return write_str(w, value);
    if (PyBytes_CheckExact(value))
        return write_bytes_like(w, 'b', 'B', value, PyBytes_AS_STRING(value),
                                PyBytes_GET_SIZE(value));
    if (PyTuple_CheckExact(value))
        return write_tuple(w, value, depth);
    if (PyFloat_CheckExact(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        uint64_t bits;
        memcpy(&bits, &number, sizeof bits);
        return put_number(w, 'f', bits);
    }
    if (PyDict_CheckExact(value))
        return write_dict(w, value, depth);
    if (PyList_CheckExact(value))
        return write_list(w, value, depth);
    if (PyMemoryView_Check(value))
        return write_view(w, value);
    if (PyByteArray_CheckExact(value)) {
        if (!w->strict && enter(w, value, depth) < 0)
            return -1;
        return write_bytes_like(w, 'a', 'A', value, PyByteArray_AS_STRING(value),
                                PyByteArray_GET_SIZE(value));
    }
    if (w->arrays && w->buffers != NULL && is_array(value)) {
        if (enter(w, value, depth) < 0)
            return -1;
        return write_array(w, value);
    }
    return refuse(w, value);
}

static PyObject *finish(writer *w, int rc, Py_ssize_t buffers_before)
{
    PyObject *result = NULL;
    if (rc == 0)
        result = PyBytes_FromStringAndSize(w->data, (Py_ssize_t)w->length);
    else if (w->buffers != NULL && PyList_GET_SIZE(w->buffers) > buffers_before) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        (void)PyList_SetSlice(w->buffers, buffers_before, PY_SSIZE_T_MAX, NULL);
        PyErr_Restore(type, value, traceback);
    }
    if (w->data != w->first)
        PyMem_Free(w->data);
    if (result == NULL && !PyErr_Occurred()) {
        if (!w->strict)
            Py_RETURN_NONE;
        PyErr_SetString(PyExc_ValueError, "more than 4 GiB in one piece of plain data");
    }
    return result;
}

PyObject *bnd_plain_encode_method(PyObject *Py_UNUSED(module), PyObject *const *args,
                                  Py_ssize_t nargs)
{
    writer w;
    if (nargs != 4)
        return PyErr_Format(PyExc_TypeError, "plain_encode() takes 4 arguments, not %zd", nargs);
    if (args[1] != Py_None && !PyList_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "plain_encode(): buffers must be a list or None");
    Py_ssize_t limit = PyLong_AsSsize_t(args[2]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    w.data = w.first;
    w.length = 0;
    w.capacity = sizeof w.first;
    w.limit = limit < 0 ? PY_SSIZE_T_MAX : (size_t)limit;
    w.strict = limit < 0;
    w.unfit = false;
    w.arrays = !w.strict && args[3] == Py_True;
    w.seen_count = 0;
    w.buffers = args[1] == Py_None ? NULL : args[1];
    Py_ssize_t before = w.buffers == NULL ? 0 : PyList_GET_SIZE(w.buffers);
    int rc = write_value(&w, args[0], 0);
    return finish(&w, rc, before);
}

Py_ssize_t bnd_plain_write(PyObject *value, char *data, size_t size)
{
    writer w;
    w.data = w.first;
    w.length = 0;
    w.capacity = sizeof w.first;
    w.limit = size;
    w.strict = false;
    w.unfit = false;
    w.arrays = false;
    w.seen_count = 0;
    w.buffers = NULL;
    int rc = write_value(&w, value, 0);
    if (rc < 0)
        PyErr_Clear(); /* who tries it the long way is told */
    else
        memcpy(data, w.data, w.length);
    if (w.data != w.first)
        PyMem_Free(w.data);
    return rc < 0 ? -1 : (Py_ssize_t)w.length;
}

