/* _touch.c - writes every byte of a buffer, or reads every byte, and does nothing else with it.
 *
 * What a sender that makes its payload where it lies, and a receiver that uses it there, cost at
 * least: the same functions for every contender. Standard library means run at 1 to 3 GB/s, or read
 * a second buffer, and would hide what is asked. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

typedef uint64_t words __attribute__((vector_size(16), aligned(1), may_alias));

/* Four sums of two words: one chain of additions would wait for itself, not for memory. */
static uint64_t sum_words(const unsigned char *bytes, size_t length)
{
    words sums[4] = {{0}, {0}, {0}, {0}};
    uint64_t total = 0;
    size_t at = 0;
    for (; at + sizeof sums <= length; at += sizeof sums) {
        const words *here = (const words *)(bytes + at);
        sums[0] += here[0];
        sums[1] += here[1];
        sums[2] += here[2];
        sums[3] += here[3];
    }
    for (; at < length; at++)
        total += bytes[at];
    for (int i = 0; i < 4; i++)
        total += sums[i][0] + sums[i][1];
    return total;
}

static PyObject *touch_read(PyObject *Py_UNUSED(module), PyObject *object)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t sum = sum_words(view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(sum);
}

static PyObject *touch_write(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer view;
    unsigned long long word;
    if (!PyArg_ParseTuple(args, "w*K", &view, &word))
        return NULL;
    unsigned char *bytes = view.buf;
    size_t length = (size_t)view.len, at = 0;
    words both = {word, ~word};
    for (; at + sizeof both <= length; at += sizeof both)
        *(words *)(bytes + at) = both;
    for (; at < length; at++)
        bytes[at] = (unsigned char)word;
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyMethodDef touch_methods[] = {
    {"write", touch_write, METH_VARARGS, "write(buffer, word): fill it with that word and its complement"},
    {"read", touch_read, METH_O, "read(buffer) -> int: the sum of its words, modulo 2**64"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot touch_slots[] = {{0, NULL}};

static struct PyModuleDef touch_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_touch",
    .m_methods = touch_methods,
    .m_slots = touch_slots,
};

PyMODINIT_FUNC PyInit__touch(void)
{
    return PyModuleDef_Init(&touch_module);
}
