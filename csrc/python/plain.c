/* plain.c - plain data to bytes and back: None, bool, int, float, str, bytes,
 * bytearray, memoryview, list, tuple, dict; exactly these types, nothing derived.
 *
 * Knows nothing of messages.  One tag byte (below 0x80, where a pickle begins with
 * 0x80), then numbers in little-endian order:
 *
 *   N T F             None, True, False
 *   i                 int: 8 bytes        I   length u32, two's complement
 *   f                 float: 8 bytes      s   length u32, UTF-8 (lone surrogates pass)
 *   b a m             bytes, bytearray, memoryview of bytes: length u32, data
 *   M                 memoryview: format u8, dimensions u8, u64 each, length u32, data
 *   B A V             the same three, large: index u32 into the buffers beside
 *   W                 memoryview: format, dimensions, u64 each, index u32
 *   t l d             tuple, list (count u32, items), dict (count u32, key and value)
 *
 * Decoding trusts nothing: lengths and counts are compared with what is left before
 * anything is allocated, depth is bounded, every byte must be used. */
#include "state.h"

#include <string.h>

#define DEPTH_MAX 64
#define LARGE 256          /* bytes-likes from here on go beside, when there is a beside */
#define SEEN_MAX 32        /* containers in a message with a limit */
#define DIMENSIONS_MAX 16

/* ---- writing ------------------------------------------------------------- */
typedef struct writer {
    char *data;
    size_t length, capacity, limit;
    PyObject *buffers; /* list, borrowed, or NULL */
    bool strict;       /* say what is wrong */
    bool unfit;        /* not plain, or beyond the limit: no exception */
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

static int write_shape(writer *w, char tag, const Py_buffer *view)
{
    size_t length = 3 + 8 * (size_t)view->ndim;
    if (room(w, length) < 0)
        return -1;
    char *p = w->data + w->length;
    p[0] = tag;
    p[1] = format_of(view);
    p[2] = (char)view->ndim;
    for (int i = 0; i < view->ndim; i++)
        put_u64(p + 3 + 8 * i, (uint64_t)view->shape[i]);
    w->length += length;
    return 0;
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
    if (format == 0 || view.ndim < 1 || view.ndim > DIMENSIONS_MAX) {
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

/* In a message with a limit, which a pickle would carry otherwise, one list that occurs
 * twice must arrive as one list: a pickle's business. */
static int enter(writer *w, PyObject *container, int depth)
{
    if (depth >= DEPTH_MAX) {
        if (!w->strict)
            return unfit(w);
        PyErr_Format(PyExc_ValueError, "plain data may be nested %d deep, and not contain itself",
                     DEPTH_MAX);
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
    if (nargs != 3)
        return PyErr_Format(PyExc_TypeError, "plain_encode() takes 3 arguments, not %zd", nargs);
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

/* ---- reading ------------------------------------------------------------- */
typedef struct reader {
    const char *data;
    size_t length, at;
    size_t promised;   /* values that counts have announced: a byte each at least */
    PyObject *source;  /* what `data` is the memory of */
    PyObject *whole;   /* a memoryview of it, once there is need */
    PyObject *buffers; /* a fast sequence, or NULL */
    PyObject *views;   /* a set, or NULL */
} reader;

static PyObject *broken(const reader *r, const char *what)
{
    return PyErr_Format(PyExc_ValueError, "not plain data: %s at byte %zu of %zu", what, r->at,
                        r->length);
}

static inline size_t left(const reader *r)
{
    return r->length - r->at;
}

static inline uint64_t get_number(const char *source, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)(unsigned char)source[i] << (8 * i);
    return value;
}

static int take_u32(reader *r, uint32_t *ret)
{
    if (left(r) < 4) {
        broken(r, "the end of the data in a length");
        return -1;
    }
    *ret = (uint32_t)get_number(r->data + r->at, 4);
    r->at += 4;
    return 0;
}

/* A length and so many bytes; their place. */
static const char *take_data(reader *r, uint32_t *ret_length)
{
    if (take_u32(r, ret_length) < 0)
        return NULL;
    if (*ret_length > left(r)) {
        broken(r, "a length beyond the end");
        return NULL;
    }
    const char *data = r->data + r->at;
    r->at += *ret_length;
    return data;
}

static PyObject *take_buffer(reader *r)
{
    uint32_t index;
    if (take_u32(r, &index) < 0)
        return NULL;
    if (r->buffers == NULL || index >= (size_t)PySequence_Fast_GET_SIZE(r->buffers))
        return broken(r, "an index of a buffer that did not come");
    return Py_NewRef(PySequence_Fast_GET_ITEM(r->buffers, index));
}

/* memoryview(source)[at:at+length] */
static PyObject *slice_of_source(reader *r, const char *data, size_t length)
{
    if (r->whole == NULL) {
        r->whole = PyMemoryView_FromObject(r->source);
        if (r->whole == NULL)
            return NULL;
    }
    PyObject *begin = PyLong_FromSize_t((size_t)(data - r->data));
    PyObject *end = PyLong_FromSize_t((size_t)(data - r->data) + length);
    PyObject *slice = begin != NULL && end != NULL ? PySlice_New(begin, end, NULL) : NULL;
    Py_XDECREF(begin);
    Py_XDECREF(end);
    if (slice == NULL)
        return NULL;
    PyObject *result = PyObject_GetItem(r->whole, slice);
    Py_DECREF(slice);
    return result;
}

static PyObject *copy_buffer(PyObject *buffer, bool bytearray)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *copy = bytearray ? PyByteArray_FromStringAndSize(NULL, view.len)
                               : PyBytes_FromStringAndSize(NULL, view.len);
    if (copy != NULL) {
        char *target = bytearray ? PyByteArray_AS_STRING(copy) : PyBytes_AS_STRING(copy);
        if ((uint64_t)view.len < HUB_COPY_WITHOUT_GIL) {
            memcpy(target, view.buf, (size_t)view.len);
        } else {
            Py_BEGIN_ALLOW_THREADS /* nobody else knows `copy` */
            memcpy(target, view.buf, (size_t)view.len);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&view);
    return copy;
}

/* view.cast("B").cast(format, shape), which checks that the sizes agree */
static PyObject *cast(PyObject *view, char format, const char *dimensions, int count)
{
    const char text[2] = {format, 0};
    PyObject *shape = PyList_New(count);
    for (int i = 0; shape != NULL && i < count; i++) {
        uint64_t extent = get_number(dimensions + 8 * i, 8);
        PyObject *number = PyLong_FromUnsignedLongLong(extent);
        if (number == NULL)
            Py_CLEAR(shape);
        else
            PyList_SET_ITEM(shape, i, number);
    }
    PyObject *whole = shape == NULL ? NULL : PyMemoryView_FromObject(view);
    PyObject *plain = whole == NULL ? NULL : PyObject_CallMethod(whole, "cast", "s", "B");
    Py_XDECREF(whole);
    PyObject *result = plain == NULL ? NULL
                                     : PyObject_CallMethod(plain, "cast", "sO", text, shape);
    Py_XDECREF(plain);
    Py_XDECREF(shape);
    if (result == NULL && PyErr_Occurred() &&
        (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_OverflowError))) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "not plain data: a memoryview's shape contradicts its "
                                          "size");
    }
    return result;
}

static PyObject *read_shaped_view(reader *r, bool beside)
{
    if (left(r) < 2)
        return broken(r, "the end of the data in a shape");
    char format = r->data[r->at];
    unsigned count = (unsigned char)r->data[r->at + 1];
    r->at += 2;
    if (count < 1 || count > DIMENSIONS_MAX || left(r) < 8 * (size_t)count)
        return broken(r, "a shape that cannot be");
    const char *dimensions = r->data + r->at;
    r->at += 8 * (size_t)count;
    PyObject *view = NULL;
    if (beside) {
        view = take_buffer(r);
    } else {
        uint32_t length;
        const char *data = take_data(r, &length);
        if (data != NULL)
            view = slice_of_source(r, data, length);
    }
    if (view == NULL)
        return NULL;
    PyObject *result = cast(view, format, dimensions, (int)count);
    Py_DECREF(view);
    return result;
}

static PyObject *read_value(reader *r, int depth, bool view);

static PyObject *read_big_int(reader *r)
{
    uint32_t length;
    const char *data = take_data(r, &length);
    if (data == NULL)
        return NULL;
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)&PyLong_Type, "from_bytes");
    PyObject *args = Py_BuildValue("(y#s)", data, (Py_ssize_t)length, "little");
    PyObject *kwargs = Py_BuildValue("{s:O}", "signed", Py_True);
    PyObject *result = NULL;
    if (from_bytes != NULL && args != NULL && kwargs != NULL)
        result = PyObject_Call(from_bytes, args, kwargs);
    Py_XDECREF(from_bytes);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return result;
}

static PyObject *read_number(reader *r, char tag)
{
    if (left(r) < 8)
        return broken(r, "the end of the data in a number");
    uint64_t bits = get_number(r->data + r->at, 8);
    r->at += 8;
    if (tag == 'i')
        return PyLong_FromLongLong((long long)bits);
    double number;
    memcpy(&number, &bits, sizeof number);
    return PyFloat_FromDouble(number);
}

static PyObject *read_data(reader *r, char tag, bool view)
{
    uint32_t length;
    const char *data = take_data(r, &length);
    if (data == NULL)
        return NULL;
    if (tag == 's') {
        PyObject *text = PyUnicode_DecodeUTF8(data, length, "surrogatepass");
        return text;
    }
    if (tag == 'm' || view)
        return slice_of_source(r, data, length);
    if (tag == 'b')
        return PyBytes_FromStringAndSize(data, length);
    return PyByteArray_FromStringAndSize(data, length);
}

static PyObject *read_beside(reader *r, char tag, bool view)
{
    PyObject *buffer = take_buffer(r);
    if (buffer == NULL)
        return NULL;
    PyObject *result = tag == 'V' || view ? PyMemoryView_FromObject(buffer)
                                          : copy_buffer(buffer, tag == 'A');
    Py_DECREF(buffer);
    return result;
}

/* The number of things to come, each of `values` values. What all counts together have
 * announced must fit, or nested ones could ask for memory many times over. */
static int take_count(reader *r, size_t values, uint32_t *ret)
{
    if (take_u32(r, ret) < 0)
        return -1;
    if (r->promised > left(r) || *ret > (left(r) - r->promised) / values) {
        broken(r, "a count beyond the end");
        return -1;
    }
    r->promised += *ret * values;
    return 0;
}

/* Is the element of the top tuple one that is wanted as a view? */
static int wanted_as_view(const reader *r, int depth, Py_ssize_t index)
{
    if (r->views == NULL || depth != 0)
        return 0;
    PyObject *number = PyLong_FromSsize_t(index);
    if (number == NULL)
        return -1;
    int rc = PySet_Contains(r->views, number);
    Py_DECREF(number);
    return rc;
}

static PyObject *read_dict(reader *r, int depth, bool named)
{
    uint32_t count;
    if (take_count(r, 2, &count) < 0)
        return NULL;
    PyObject *dict = PyDict_New();
    for (uint32_t i = 0; dict != NULL && i < count; i++) {
        r->promised -= 2;
        PyObject *key = read_value(r, depth + 1, false), *item = NULL;
        int view = 0;
        if (key != NULL && named && PyUnicode_CheckExact(key))
            view = PySet_Contains(r->views, key);
        if (key != NULL && view >= 0)
            item = read_value(r, depth + 1, view > 0);
        if (item == NULL || PyDict_SetItem(dict, key, item) < 0) {
            if (PyErr_ExceptionMatches(PyExc_TypeError)) { /* unhashable */
                PyErr_Clear();
                broken(r, "a key that cannot be one");
            }
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(item);
    }
    return dict;
}

static PyObject *read_sequence(reader *r, char tag, int depth)
{
    uint32_t count;
    if (take_count(r, 1, &count) < 0)
        return NULL;
    PyObject *sequence = tag == 't' ? PyTuple_New(count) : PyList_New(count);
    for (uint32_t i = 0; sequence != NULL && i < count; i++) {
        r->promised--;
        PyObject *item = NULL;
        bool top = tag == 't' && depth == 0;
        int view = top ? wanted_as_view(r, depth, i) : 0;
        if (view >= 0 && top && r->views != NULL && i == count - 1 && left(r) > 0 &&
            r->data[r->at] == 'd') {
            r->at++;
            item = read_dict(r, depth + 1, true);
        } else if (view >= 0) {
            item = read_value(r, depth + 1, view > 0);
        }
        if (item == NULL)
            Py_CLEAR(sequence);
        else if (tag == 't')
            PyTuple_SET_ITEM(sequence, i, item);
        else
            PyList_SET_ITEM(sequence, i, item);
    }
    return sequence;
}

static PyObject *read_value(reader *r, int depth, bool view)
{
    if (left(r) == 0)
        return broken(r, "the end of the data");
    char tag = r->data[r->at++];
    switch (tag) {
    case 'N':
        Py_RETURN_NONE;
    case 'T':
        Py_RETURN_TRUE;
    case 'F':
        Py_RETURN_FALSE;
    case 'i':
    case 'f':
        return read_number(r, tag);
    case 'I':
        return read_big_int(r);
    case 's':
    case 'b':
    case 'a':
    case 'm':
        return read_data(r, tag, view);
    case 'B':
    case 'A':
    case 'V':
        return read_beside(r, tag, view);
    case 'M':
    case 'W':
        return read_shaped_view(r, tag == 'W');
    case 't':
    case 'l':
    case 'd':
        if (depth >= DEPTH_MAX)
            return broken(r, "deeper nesting than there may be");
        return tag == 'd' ? read_dict(r, depth, false) : read_sequence(r, tag, depth);
    default:
        r->at--;
        return broken(r, "an unknown tag");
    }
}

static PyObject *read_all(reader *r, bool view)
{
    PyObject *result = read_value(r, 0, view);
    if (result != NULL && left(r) > 0) {
        Py_CLEAR(result);
        broken(r, "more data after the end");
    }
    if (result == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        broken(r, "a text that is not UTF-8");
    }
    return result;
}

PyObject *bnd_plain_read(PyObject *source, const char *data, size_t length, PyObject *views)
{
    reader r = {.data = data, .length = length, .source = source, .views = views};
    PyObject *result = read_all(&r, false);
    Py_XDECREF(r.whole);
    return result;
}

PyObject *bnd_plain_decode_method(PyObject *Py_UNUSED(module), PyObject *const *args,
                                  Py_ssize_t nargs)
{
    if (nargs != 3)
        return PyErr_Format(PyExc_TypeError, "plain_decode() takes 3 arguments, not %zd", nargs);
    if (args[2] != Py_None && args[2] != Py_True && !PyAnySet_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "plain_decode(): views must be None, True or a set");
    reader r = {.source = args[0]};
    Py_buffer view;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (args[1] != Py_None) {
        r.buffers = PySequence_Fast(args[1], "plain_decode(): buffers must be a sequence or None");
        if (r.buffers == NULL) {
            PyBuffer_Release(&view);
            return NULL;
        }
    }
    r.data = view.buf;
    r.length = (size_t)view.len;
    r.views = PyAnySet_Check(args[2]) ? args[2] : NULL;
    PyObject *result = read_all(&r, args[2] == Py_True);
    Py_XDECREF(r.whole);
    Py_XDECREF(r.buffers);
    PyBuffer_Release(&view);
    return result;
}
