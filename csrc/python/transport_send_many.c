/* transport_send_many.c - sending several payloads in order.
 *
 * Runs of buffers go to the core a chunk at a time, which publishes runs of inline
 * payloads with one store; Slots and Frames between them go one by one.  An
 * exception's .sent says how many went, whatever went wrong with the next. */
#include "transport.h"
#include "wait.h"

#include <string.h>

#define CHUNK 64 /* payloads that the core is given at once */

typedef struct chunk {
    size_t count;
    uint64_t bytes;
    hub_message messages[CHUNK];
    hub_buffer buffers[CHUNK];
    PyObject *bytes_objects[CHUNK]; /* references: the list may change while we wait */
    Py_buffer views[CHUNK];         /* of those that are no bytes: obj != NULL */
} chunk;

/* What all chunks of one call share. */
typedef struct send_many {
    TransportObject *transport;
    hub_send_request request;
    enum hub_wait_mode mode;
    const char *tried;
    PyObject *ids; /* list: of what went */
} send_many;

/* ---- a chunk ------------------------------------------------------------- */
static void chunk_release(chunk *chunk)
{
    for (size_t i = 0; i < chunk->count; i++) {
        if (chunk->bytes_objects[i] != NULL)
            Py_DECREF(chunk->bytes_objects[i]);
        else
            PyBuffer_Release(&chunk->views[i]);
    }
    chunk->count = 0;
    chunk->bytes = 0;
}

static int chunk_add(chunk *chunk, const send_many *call, PyObject *payload)
{
    size_t i = chunk->count;
    if (PyBytes_CheckExact(payload)) {
        chunk->bytes_objects[i] = Py_NewRef(payload);
        chunk->buffers[i].data = PyBytes_AS_STRING(payload);
        chunk->buffers[i].length = (size_t)PyBytes_GET_SIZE(payload);
    } else {
        chunk->bytes_objects[i] = NULL;
        if (bnd_arg_buffer(payload, call->tried, &chunk->views[i]) < 0)
            return -1;
        chunk->buffers[i].data = chunk->views[i].buf;
        chunk->buffers[i].length = (size_t)chunk->views[i].len;
    }
    chunk->messages[i] = call->request.message;
    chunk->messages[i].message_id = hub_transport_next_id(call->transport->transport);
    chunk->bytes += chunk->buffers[i].length;
    chunk->count = i + 1;
    return 0;
}

/* The ids of what went. They are made before the core is asked: see send_chunk. */
static int add_ids(PyObject *ids, const chunk *chunk)
{
    for (size_t i = 0; i < chunk->count; i++)
        if (bnd_list_add(ids, PyLong_FromUnsignedLongLong(chunk->messages[i].message_id)) < 0)
            return -1;
    return 0;
}

static int core_send_many(const send_many *call, const chunk *chunk, size_t from, int64_t deadline,
                          size_t *ret_sent)
{
    return hub_send_many(call->transport->transport, call->request.to, chunk->messages + from,
                         chunk->buffers + from, chunk->count - from, deadline, ret_sent);
}

/* Publish the chunk, waiting if need be. *sent: how many went. A failure may be that
 * a signal handler has raised: its exception is set then. */
static int publish(send_many *call, const chunk *chunk, size_t *sent)
{
    size_t now = 0;
    *sent = 0;
    int rc = bnd_send_request_bind(call->transport, &call->request);
    if (rc < 0)
        return rc;
    if (chunk->bytes < HUB_COPY_WITHOUT_GIL) {
        rc = core_send_many(call, chunk, 0, HUB_NOW, &now);
    } else {
        Py_BEGIN_ALLOW_THREADS
        rc = core_send_many(call, chunk, 0, HUB_NOW, &now);
        Py_END_ALLOW_THREADS
    }
    *sent = now;
    if ((rc != HUB_ERINGFULL && rc != HUB_EEXHAUSTED) || call->mode == HUB_NOWAIT)
        return rc;
    if (call->request.timeout_ns == 0)
        return HUB_ETIMEDOUT;
    bnd_wait wait = bnd_wait_begin(bnd_send_request_deadline(&call->request));
    do {
        now = 0;
        rc = bnd_send_request_bind(call->transport, &call->request);
        if (rc < 0)
            break;
        Py_BEGIN_ALLOW_THREADS
        rc = core_send_many(call, chunk, *sent, bnd_wait_next(&wait), &now);
        Py_END_ALLOW_THREADS
        *sent += now;
    } while (bnd_wait_again(&wait, rc));
    return rc;
}

static int raise_chunk(const send_many *call, int code)
{
    TransportObject *self = call->transport;
    if (code == HUB_EPEERGONE || code == HUB_EHOSTGONE)
        bnd_transport_raise(self, code, call->tried, call->request.to);
    else
        bnd_raise(self->state, code, NULL, "%s() on transport '%U', after %zd messages",
                  call->tried, self->name, PyList_GET_SIZE(call->ids));
    return -1;
}

/* Send what the chunk holds; it is empty afterwards. */
static int send_chunk(send_many *call, chunk *chunk)
{
    if (chunk->count == 0)
        return 0;
    Py_ssize_t before = PyList_GET_SIZE(call->ids);
    size_t sent = 0;
    /* The ids first: what is published must be reported, even without memory. */
    int rc = add_ids(call->ids, chunk);
    if (rc == 0)
        rc = publish(call, chunk, &sent);
    else
        rc = -1;
    Py_ssize_t want = before + (Py_ssize_t)sent, have = PyList_GET_SIZE(call->ids);
    if (rc < 0 && want < have) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyList_SetSlice(call->ids, want, have, NULL); /* shrinking needs no memory */
        PyErr_Restore(type, error, traceback);
    }
    chunk_release(chunk);
    return rc < 0 ? raise_chunk(call, rc) : 0;
}

/* ---- a call -------------------------------------------------------------- */
/* A Slot or a Frame: moved, by itself. */
static int send_object(send_many *call, PyObject *payload)
{
    int rc = bnd_send_request_bind(call->transport, &call->request);
    if (rc < 0)
        return raise_chunk(call, rc);
    hub_send_request request = call->request;
    if (bnd_send_payload(call->transport, payload, &request, call->mode, call->tried) < 0)
        return -1;
    call->request.timeout_end = request.timeout_end;
    return bnd_list_add(call->ids, PyLong_FromUnsignedLongLong(request.message.message_id));
}

static int send_items(send_many *call, PyObject *items, chunk *chunk)
{
    hub_state *state = call->transport->state;
    /* The size is asked each time: a list may shrink while we wait. */
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items); i++) {
        PyObject *payload = Py_NewRef(PySequence_Fast_GET_ITEM(items, i));
        bool moved = Py_IS_TYPE(payload, state->slot_type) ||
                     Py_IS_TYPE(payload, state->frame_type);
        int rc = 0;
        if (chunk->count == CHUNK || (moved && chunk->count > 0))
            rc = send_chunk(call, chunk);
        if (rc == 0)
            rc = moved ? send_object(call, payload) : chunk_add(chunk, call, payload);
        Py_DECREF(payload);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* Set .sent and, for our own callers, the ids themselves on the current exception; keeps it. */
static void say_what_went(PyObject *ids)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *number = PyLong_FromSsize_t(PyList_GET_SIZE(ids));
    if (error == NULL || number == NULL || PyObject_SetAttrString(error, "sent", number) < 0 ||
        PyObject_SetAttrString(error, "_sent_ids", ids) < 0)
        PyErr_Clear();
    Py_XDECREF(number);
    PyErr_Restore(type, error, traceback);
}

/* Those before a payload that cannot be sent go first, so that .sent tells which it was. */
static int send_all(send_many *call, PyObject *items)
{
    chunk *chunk = PyMem_Malloc(sizeof *chunk);
    if (chunk == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    chunk->count = 0;
    chunk->bytes = 0;
    int rc = send_items(call, items, chunk);
    if (rc == 0) {
        rc = send_chunk(call, chunk);
    } else if (chunk->count > 0) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (send_chunk(call, chunk) == 0) {
            PyErr_Restore(type, error, traceback);
        } else {
            Py_XDECREF(type);
            Py_XDECREF(error);
            Py_XDECREF(traceback);
        }
    }
    PyMem_Free(chunk);
    return rc;
}

static int send_inside(send_many *call, PyObject *items)
{
    if (bnd_transport_enter(call->transport, call->tried) < 0)
        return -1;
    int rc = send_all(call, items);
    bnd_transport_leave(call->transport);
    return rc;
}

static PyObject *send_many_items(TransportObject *self, const hub_args_spec *spec,
                                 PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                                 enum hub_wait_mode mode)
{
    if (nargs != 1)
        return PyErr_Format(PyExc_TypeError, "%s() takes an iterable of payloads, %zd arguments "
                                             "were given",
                            spec->function, nargs);
    send_many call = {.transport = self, .mode = mode, .tried = spec->function};
    if (bnd_send_request_parse(self, spec, args, nargs, kwnames, &call.request) < 0)
        return NULL;
    if (PyObject_CheckBuffer(args[0]) || PyUnicode_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "%s() takes an iterable of payloads, not one %.100s",
                            spec->function, Py_TYPE(args[0])->tp_name);
    call.ids = PyList_New(0);
    if (call.ids == NULL)
        return NULL;
    /* All of them first, so that a generator that raises has sent nothing. */
    PyObject *items = PySequence_Fast(args[0], "send_many() takes an iterable of payloads");
    if (items == NULL || send_inside(&call, items) < 0) {
        say_what_went(call.ids);
        Py_CLEAR(call.ids);
    }
    Py_XDECREF(items);
    return call.ids;
}

#define SEND_MANY_NAMES                                                                            \
    HUB_NAME_TO, HUB_NAME_CHANNEL, HUB_NAME_METHOD, HUB_NAME_FLAGS, HUB_NAME_DEADLINE

PyObject *bnd_transport_send_many(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames)
{
    static const hub_args_spec spec = {"send_many", 6, 0, 0, {SEND_MANY_NAMES, HUB_NAME_TIMEOUT}};
    return send_many_items(self, &spec, args, nargs, kwnames, HUB_WAIT);
}

PyObject *bnd_transport_send_many_nowait(TransportObject *self, PyObject *const *args,
                                         Py_ssize_t nargs, PyObject *kwnames)
{
    static const hub_args_spec spec = {"send_many_nowait", 5, 0, 0, {SEND_MANY_NAMES}};
    return send_many_items(self, &spec, args, nargs, kwnames, HUB_NOWAIT);
}
