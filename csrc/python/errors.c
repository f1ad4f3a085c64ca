/* errors.c - the one table from the core's codes to Python's exceptions.
 *
 * The classes live in shmhub/_errors.py: Error(message, **attributes).  Every
 * message says what was tried and on what (the caller's format), what was found
 * (the core's fault text, or the table's) and what to do. */
#include "state.h"

#include <string.h>

typedef struct error_row {
    int code;
    const char *class_name; /* in shmhub._errors; NULL: ValueError */
    const char *found;
    const char *advice; /* what to do; "" where `found` says it all */
} error_row;

static const error_row table[] = {
    {HUB_EAGAIN, "WouldBlockError", "there is nothing to receive now",
     "use recv(), which waits, or try again when fileno() is readable"},
    {HUB_ERINGFULL, "RingFullError", "the ring to the other side has no room now",
     "use send(), which waits, or try again when the other side has received"},
    {HUB_EEXHAUSTED, "SlotsExhaustedError", "no slot that fits is free now",
     "release slots and frames, use alloc() or send(), which wait, or configure more slots"},
    {HUB_ETIMEDOUT, "HubTimeoutError", "the time is up", "nothing was sent, received or allocated"},
    {HUB_EHOSTGONE, "HostGoneError", "the host is gone", "attach to a new hub"},
    {HUB_EPEERGONE, "PeerGoneError", "the peer is gone",
     "add a peer and start it again; messages in .undelivered were never received"},
    {HUB_EVIOLATION, "ProtocolViolation",
     "shared memory says what no honest peer writes", "replace the peer that wrote it"},
    {HUB_ECLOSED, "HubClosedError", "it is closed on this side", "open a new one"},
    {HUB_EFORKED, "HubForkedError", "this is a forked child of the process that opened it",
     "open the hub in the child, or start it with spawn"},
    {HUB_ETOOLARGE, "PayloadTooLargeError", "no slot of this hub can ever hold that",
     "send it in parts, or configure a larger size class or a larger max_bytes"},
    {HUB_ESTALE, "ProtocolViolation", "shared memory says that the slot is not ours any more",
     "somebody has written over the hub's tables: replace that peer"},
    {HUB_ESTATE, "PeerStateError", "the peer's state does not allow it", "see HubHost.peers"},
    {HUB_ELIMIT, "PeerLimitError", "all peer ids are taken",
     "remove peers, or raise HubConfig.max_peers"},
    {HUB_ENOTATTACHED, "NotAttachedError", "the host has not answered yet",
     "make the transport of a registered peer first"},
    {HUB_EBUSY, "PeerStateError", "the peer has a transport already",
     "use that one, or close it first"},
    {HUB_ENOPEER, "PeerStateError", "there is no such peer", "see HubHost.peers"},
    {HUB_EINVAL, NULL, "an argument is out of its range", ""},
    {HUB_EFORMAT, "HubFormatError", "it is not a hub of this version", "give the path of a hub"},
    {HUB_EEXISTS, "HubExistsError", "a live hub is at that path", "close it, or use another path"},
    {HUB_ENOSPC, "HubNoSpaceError", "there is no memory left behind the hub",
     "free some on its file system or raise the memory limit"},
    {HUB_EUNSUPPORTED, "UnsupportedPlatformError", "this platform lacks what a hub needs",
     "run it on Linux"},
};
#define TABLE_ROWS ((int)(sizeof(table) / sizeof(table[0])))
_Static_assert(sizeof(table) / sizeof(table[0]) <= HUB_ERROR_CLASSES, "room for each class");

int bnd_errors_init(hub_state *state)
{
    PyObject *module = PyImport_ImportModule("shmhub._errors");
    if (module == NULL)
        return -1;
    for (int i = 0; i < TABLE_ROWS; i++) {
        PyObject *class = table[i].class_name == NULL
                              ? Py_NewRef(PyExc_ValueError)
                              : PyObject_GetAttrString(module, table[i].class_name);
        if (class == NULL) {
            Py_DECREF(module);
            return -1;
        }
        state->errors[i] = class;
    }
    Py_DECREF(module);
    return 0;
}

static int row_of(int code)
{
    for (int i = 0; i < TABLE_ROWS; i++)
        if (table[i].code == code)
            return i;
    return -1;
}

const char *bnd_error_found(int code)
{
    int row = row_of(code);
    return row >= 0 ? table[row].found : hub_strerror(code);
}

const char *bnd_error_advice(int code)
{
    int row = row_of(code);
    return row >= 0 ? table[row].advice : "";
}

/* A code of the operating system: the OSError subclass that Python has for it. */
static PyObject *raise_os_error(int code, PyObject *text)
{
    PyObject *error = PyObject_CallFunction(PyExc_OSError, "iO", -code, text);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

PyObject *bnd_raise_text(hub_state *state, int code, PyObject *attributes, PyObject *text)
{
    int row = row_of(code);
    if (row < 0)
        return code > -10000 ? raise_os_error(code, text)
                             : (PyErr_SetObject(PyExc_RuntimeError, text), NULL);
    PyObject *class = state->errors[row];
    PyObject *error = NULL;
    PyObject *args = PyTuple_Pack(1, text);
    if (args != NULL)
        error = PyObject_Call(class, args, table[row].class_name != NULL ? attributes : NULL);
    Py_XDECREF(args);
    if (error == NULL)
        return NULL;
    PyErr_SetObject(class, error);
    Py_DECREF(error);
    return NULL;
}

/* "tried: found; what to do". Fault texts come from the core and say it all. */
static PyObject *compose(int code, const hub_fault *fault, PyObject *tried)
{
    if (fault != NULL && fault->text[0] != '\0') {
        PyObject *found = PyUnicode_DecodeUTF8(fault->text, (Py_ssize_t)strlen(fault->text),
                                               "backslashreplace");
        PyObject *text = found == NULL ? NULL : PyUnicode_FromFormat("%U: %U", tried, found);
        Py_XDECREF(found);
        return text;
    }
    int row = row_of(code);
    if (row < 0)
        return PyUnicode_FromFormat("%U: %s", tried,
                                    code > -10000 ? strerror(-code) : hub_strerror(code));
    if (table[row].advice[0] == '\0')
        return PyUnicode_FromFormat("%U: %s", tried, table[row].found);
    return PyUnicode_FromFormat("%U: %s; %s", tried, table[row].found, table[row].advice);
}

PyObject *bnd_raise(hub_state *state, int code, const hub_fault *fault, const char *format, ...)
{
    if (PyErr_Occurred()) /* a signal handler's, or one that is better than ours */
        return NULL;
    va_list arguments;
    va_start(arguments, format);
    PyObject *tried = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (tried == NULL)
        return NULL;
    PyObject *text = compose(code, fault, tried);
    Py_DECREF(tried);
    if (text == NULL)
        return NULL;
    bnd_raise_text(state, code, NULL, text);
    Py_DECREF(text);
    return NULL;
}
