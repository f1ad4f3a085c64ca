/* transport_rpc.c - sending and receiving for shmhub's own protocols above the hub.
 *
 * The same as send and recv but for what applications may not say (channels from
 * 0xFF00, all flags), arguments by position only, and a receive that cannot lose
 * a frame: a signal handler of Python may raise between any two bytecodes, so what
 * has left the ring is put where it is found before this returns. */
#include "held.h"
#include "transport.h"

/* ---- sending ------------------------------------------------------------- */
static int parse_number(PyObject *value, const char *name, uint64_t max, uint64_t *ret)
{
    return bnd_arg_unsigned(value, name, max, ret);
}

static int parse_to(TransportObject *self, PyObject *value, uint32_t *ret)
{
    uint64_t to;
    *ret = HUB_TO_DEFAULT;
    if (self->kind != HUB_KIND_ALL_PEERS)
        return 0;
    if (parse_number(value, "to", HUB_PEERS_MAX - 1, &to) < 0)
        return -1;
    *ret = (uint32_t)to;
    return 0;
}

/* All but the payload and the timeout. */
static int parse_labels(TransportObject *self, PyObject *const *args, hub_send_request *ret)
{
    uint64_t channel, method, flags;
    *ret = (hub_send_request){.given = ~0u};
    if (parse_to(self, args[1], &ret->to) < 0 ||
        parse_number(args[2], "channel", UINT16_MAX, &channel) < 0 ||
        parse_number(args[3], "method", UINT16_MAX, &method) < 0 ||
        parse_number(args[4], "flags", UINT32_MAX, &flags) < 0 ||
        parse_number(args[5], "message_id", UINT64_MAX, &ret->message.message_id) < 0 ||
        bnd_arg_deadline(args[6], &ret->message.deadline_ns) < 0)
        return -1;
    ret->message.channel = (uint16_t)channel;
    ret->message.method = (uint16_t)method;
    ret->message.flags = (uint32_t)flags;
    return 0;
}

PyObject *bnd_transport_post(TransportObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    hub_send_request request;
    if (nargs != 8)
        return PyErr_Format(PyExc_TypeError, "post() takes 8 arguments, %zd were given", nargs);
    if (parse_labels(self, args, &request) < 0 ||
        bnd_arg_timeout(args[7], &request.timeout_ns) < 0 || bnd_transport_enter(self, "post") < 0)
        return NULL;
    int rc = bnd_send_payload(self, args[0], &request, HUB_WAIT, "post");
    bnd_transport_leave(self);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* What does not go at once goes by post(), which says why. */
PyObject *bnd_transport_post_quietly(TransportObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    hub_send_request request;
    if (nargs != 7 || !PyBytes_CheckExact(args[0]))
        return PyErr_Format(PyExc_TypeError, "post_quietly() takes bytes and 6 more arguments");
    if (parse_labels(self, args, &request) < 0 || bnd_transport_enter(self, "post_quietly") < 0)
        return NULL;
    int rc = hub_send_quietly(self->transport, request.to, &request.message,
                              PyBytes_AS_STRING(args[0]), (uint64_t)PyBytes_GET_SIZE(args[0]));
    bnd_transport_leave(self);
    return PyBool_FromLong(rc == 0);
}

PyObject *bnd_transport_wake(TransportObject *self, PyObject *to)
{
    uint32_t id;
    if (parse_to(self, to, &id) < 0 || bnd_transport_enter(self, "wake") < 0)
        return NULL;
    hub_wake(self->transport, id);
    bnd_transport_leave(self);
    Py_RETURN_NONE;
}

PyObject *bnd_transport_alloc_to(TransportObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t size;
    uint32_t to;
    int64_t timeout_ns;
    if (nargs != 3)
        return PyErr_Format(PyExc_TypeError, "alloc_to() takes 3 arguments, %zd were given", nargs);
    if (bnd_arg_unsigned(args[0], "nbytes", INT64_MAX, &size) < 0 ||
        parse_to(self, args[1], &to) < 0 || bnd_arg_timeout(args[2], &timeout_ns) < 0)
        return NULL;
    return bnd_transport_alloc_slot_to(self, to, size, timeout_ns, "alloc_to");
}

/* ---- receiving ----------------------------------------------------------- */
/* Reserve the room first: with the frame in hand there must be nothing left that can fail. */
static int make_room(PyObject *inbox)
{
    if (PyList_Append(inbox, Py_None) < 0)
        return -1;
    Py_ssize_t last = PyList_GET_SIZE(inbox) - 1;
    Py_SET_SIZE(inbox, last);
    Py_DECREF(Py_None);
    return 0;
}

static int check_collect(PyObject *const *args, Py_ssize_t nargs, Py_ssize_t wanted)
{
    if (nargs != wanted || !PyList_CheckExact(args[0])) {
        PyErr_Format(PyExc_TypeError, "expected a list and %zd more arguments", wanted - 1);
        return -1;
    }
    return 0;
}

PyObject *bnd_transport_collect(TransportObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t channel, id = 0;
    int64_t timeout_ns;
    if (check_collect(args, nargs, 4) < 0 ||
        parse_number(args[1], "channel", UINT16_MAX, &channel) < 0 ||
        (args[2] != Py_None && parse_number(args[2], "message_id", UINT64_MAX, &id) < 0) ||
        bnd_arg_timeout(args[3], &timeout_ns) < 0 || make_room(args[0]) < 0)
        return NULL;
    PyObject *frame = bnd_transport_look(self, args[0], timeout_ns, "collect");
    if (frame == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    const hub_message *message = &((FrameObject *)frame)->frame.message;
    if (message->channel == channel && (args[2] == Py_None || message->message_id == id))
        return frame;
    int rc = PyList_Append(args[0], frame);
    Py_DECREF(frame);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *bnd_transport_collect_all(TransportObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t max;
    int64_t timeout_ns;
    if (check_collect(args, nargs, 3) < 0 ||
        parse_number(args[1], "max", HUB_FRAME_SPARES, &max) < 0 ||
        bnd_arg_timeout(args[2], &timeout_ns) < 0)
        return NULL;
    PyObject *batch = PyList_New((Py_ssize_t)max + 1);
    if (batch == NULL)
        return NULL;
    Py_SET_SIZE(batch, 0); /* room for max + 1, and nothing that a collector could stumble over */
    PyObject *frame = bnd_transport_look(self, args[0], timeout_ns, "collect_all");
    int rc = 0;
    if (frame != NULL) {
        PyList_SET_ITEM(batch, 0, frame);
        Py_SET_SIZE(batch, 1);
        if (bnd_transport_enter(self, "collect_all") == 0) {
            bnd_transport_fill_list(self, batch, (Py_ssize_t)max);
            bnd_transport_leave(self);
        }
        PyErr_Clear(); /* frames before news: the next call meets it again */
        rc = PyList_SetSlice(args[0], PY_SSIZE_T_MAX, PY_SSIZE_T_MAX, batch);
    } else if (PyErr_Occurred()) {
        rc = -1;
    }
    Py_DECREF(batch);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *bnd_transport_interrupt(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->transport != NULL)
        hub_transport_interrupt(self->transport);
    Py_RETURN_NONE;
}

PyObject *bnd_transport_set_hold_limit(TransportObject *self, PyObject *limit)
{
    uint64_t bytes;
    if (bnd_arg_unsigned(limit, "nbytes", UINT64_MAX, &bytes) < 0)
        return NULL;
    if (self->held == NULL)
        return bnd_transport_raise(self, HUB_ECLOSED, "set_hold_limit", HUB_TO_DEFAULT);
    self->held->limit = bytes;
    Py_RETURN_NONE;
}
