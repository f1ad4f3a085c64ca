/* plain_read.c - see plain.h. */
#include "plain.h"

typedef struct reader {
    const char *data;
    size_t length, at;
    size_t promised;   /* values that counts have announced: a byte each at least */
    PyObject *source;  /* what `data` is the memory of */
    PyObject *whole;   /* a memoryview of it, once there is need */
    PyObject *buffers; /* a fast sequence, or NULL */
    PyObject *views;   /* a set, or NULL */
    PyObject *array;   /* callable: (shape, dtype, buffer) -> an array, or NULL: none may come */
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

/* How many dimensions, and where they begin; NULL: they cannot be. */
static const char *take_dimensions(reader *r, int *ret_count)
{
    unsigned count = left(r) > 0 ? (unsigned char)r->data[r->at] : 0;
    if (count < 1 || count > BND_PLAIN_DIMENSIONS_MAX || left(r) - 1 < 8 * (size_t)count) {
        broken(r, "a shape that cannot be");
        return NULL;
    }
    const char *dimensions = r->data + r->at + 1;
    r->at += 1 + 8 * (size_t)count;
    *ret_count = (int)count;
    return dimensions;
}

static PyObject *shape_of(const char *dimensions, int count)
{
    PyObject *shape = PyTuple_New(count);
    for (int i = 0; shape != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(get_number(dimensions + 8 * i, 8));
        if (number == NULL)
            Py_CLEAR(shape);
        else
            PyTuple_SET_ITEM(shape, i, number);
    }
    return shape;
}

/* view.cast("B").cast(format, shape), which checks that the sizes agree */
static PyObject *cast(PyObject *view, char format, const char *dimensions, int count)
{
    const char text[2] = {format, 0};
    PyObject *shape = shape_of(dimensions, count);
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
    int count;
    if (left(r) < 1)
        return broken(r, "the end of the data in a shape");
    char format = r->data[r->at++];
    const char *dimensions = take_dimensions(r, &count);
    if (dimensions == NULL)
        return NULL;
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
    PyObject *result = cast(view, format, dimensions, count);
    Py_DECREF(view);
    return result;
}

static PyObject *read_array(reader *r)
{
    if (r->array == NULL)
        return broken(r, "an array, which this link does not take,");
    size_t length = left(r) > 0 ? (unsigned char)r->data[r->at] : 0;
    const char *text = r->data + r->at + 1;
    if (left(r) < length + 1 || !bnd_plain_dtype_fits(text, length))
        return broken(r, "an array's dtype that cannot be");
    r->at += length + 1;
    int count;
    const char *dimensions = take_dimensions(r, &count);
    if (dimensions == NULL)
        return NULL;
    PyObject *buffer = take_buffer(r);
    PyObject *dtype = buffer == NULL ? NULL
                                     : PyUnicode_DecodeASCII(text, (Py_ssize_t)length, NULL);
    PyObject *shape = dtype == NULL ? NULL : shape_of(dimensions, count);
    PyObject *result = shape == NULL ? NULL
                                     : PyObject_CallFunctionObjArgs(r->array, shape, dtype, buffer,
                                                                    NULL);
    Py_XDECREF(buffer);
    Py_XDECREF(dtype);
    Py_XDECREF(shape);
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
    case 'n':
        return read_array(r);
    case 't':
    case 'l':
    case 'd':
        if (depth >= BND_PLAIN_DEPTH_MAX)
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
    if (nargs != 4)
        return PyErr_Format(PyExc_TypeError, "plain_decode() takes 4 arguments, not %zd", nargs);
    if (args[2] != Py_None && args[2] != Py_True && !PyAnySet_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "plain_decode(): views must be None, True or a set");
    reader r = {.source = args[0], .array = args[3] == Py_None ? NULL : args[3]};
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
