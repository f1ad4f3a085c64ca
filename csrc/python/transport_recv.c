/* transport_recv.c - receiving one frame or several.
 *
 * The core receives into a Frame that nobody has seen yet (a spare), kept for the
 * next time when nothing came.  A wait goes in three steps: a try and a short spin
 * with the GIL held, as giving it away and back costs more than an answer that is
 * on its way; then the core's own spin and sleep, without the GIL. */
#include "transport.h"
#include "wait.h"

#include <string.h>

/* ---- spares -------------------------------------------------------------- */
static FrameObject *take_spare(TransportObject *self)
{
    FrameObject *frame = NULL;
    HUB_BEGIN_CRITICAL(self);
    if (self->spare_count > 0)
        frame = self->spares[--self->spare_count];
    HUB_END_CRITICAL();
    return frame != NULL ? frame : bnd_frame_object_new(self->state);
}

static void keep_spare(TransportObject *self, FrameObject *frame)
{
    bool kept = false;
    HUB_BEGIN_CRITICAL(self);
    if (self->spare_count < HUB_FRAME_SPARES) {
        self->spares[self->spare_count++] = frame;
        kept = true;
    }
    HUB_END_CRITICAL();
    if (!kept)
        Py_DECREF(frame);
}

void bnd_transport_forget_spares(TransportObject *self)
{
    while (self->spare_count > 0)
        Py_DECREF(self->spares[--self->spare_count]);
    PyMem_Free(self->batch);
    self->batch = NULL;
}

/* ---- one frame ----------------------------------------------------------- */
/* A signal handler's exception may be set, whatever comes back. */
static int wait_for_frame(TransportObject *self, hub_frame *frame, int64_t deadline, bool look)
{
    bnd_wait wait = bnd_wait_begin(deadline);
    int rc;
    do {
        Py_BEGIN_ALLOW_THREADS
        rc = hub_recv(self->transport, frame, bnd_wait_next(&wait));
        Py_END_ALLOW_THREADS
    } while (bnd_wait_again(&wait, rc) && !(look && rc == HUB_EINTR));
    return look && rc == HUB_EINTR ? HUB_ETIMEDOUT : rc;
}

/* After a try that found nothing. */
static int spin_and_wait(TransportObject *self, hub_frame *frame, int64_t timeout_ns,
                         int64_t *deadline, bool look)
{
    if (timeout_ns == 0)
        return HUB_ETIMEDOUT;
    if (*deadline == 0) { /* the first time: a callback may have made it two */
        int64_t spin_ns = HUB_SPIN_WITH_GIL_NS;
        if (timeout_ns != HUB_TIMEOUT_NONE && timeout_ns < spin_ns)
            spin_ns = timeout_ns;
        *deadline = bnd_arg_deadline_of(timeout_ns);
        int rc = hub_spin_recv(self->transport, frame, spin_ns);
        if (rc != HUB_EAGAIN)
            return rc;
    }
    return wait_for_frame(self, frame, *deadline, look);
}

/* Without waiting for longer than a spin; armed when there is nothing. Does not drain. */
static int spin_and_arm(TransportObject *self, hub_frame *frame)
{
    int rc = hub_spin_recv(self->transport, frame, HUB_SPIN_WITH_GIL_NS);
    if (rc != HUB_EAGAIN)
        return rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_poll_recv(self->transport, frame, -1);
    Py_END_ALLOW_THREADS
    return rc;
}

/* What the core says after a try in vain; HUB_EAGAIN is an end only where one may not wait. */
static int continue_receive(TransportObject *self, hub_frame *frame, enum hub_wait_mode mode,
                            int64_t timeout_ns, int64_t *deadline)
{
    if (mode == HUB_WAIT || mode == HUB_LOOK)
        return spin_and_wait(self, frame, timeout_ns, deadline, mode == HUB_LOOK);
    if (mode == HUB_POLL)
        return spin_and_arm(self, frame);
    return HUB_EAGAIN;
}

/* After a try whose outcome was `rc`. 0 received, HUB_EAGAIN, or -1 with an exception; *told: it is
 * the end of a peer, and no signal handler's, which may be of any class. */
static int receive_slowly(TransportObject *self, hub_frame *ret, int rc, enum hub_wait_mode mode,
                          int64_t timeout_ns, const char *tried, bool *told)
{
    int64_t deadline = 0;
    for (;;) {
        if (rc == HUB_EAGAIN)
            rc = continue_receive(self, ret, mode, timeout_ns, &deadline);
        if (rc >= 0 || rc == HUB_EAGAIN)
            return rc < 0 ? rc : 0;
        if (PyErr_Occurred())
            return -1; /* a death is told by the next call */
        if (mode == HUB_LOOK && rc == HUB_ETIMEDOUT)
            return HUB_EAGAIN;
        if (rc != HUB_EPEERGONE) {
            bnd_transport_raise(self, rc, tried, HUB_TO_DEFAULT);
            return -1;
        }
        if (bnd_transport_tell_gone(self, tried) < 0) {
            *told = true;
            return -1;
        }
        rc = mode == HUB_POLL ? HUB_EAGAIN : hub_recv(self->transport, ret, HUB_NOW);
    }
}

static PyObject *receive(TransportObject *self, enum hub_wait_mode mode, int64_t timeout_ns,
                         const char *tried, bool *told)
{
    FrameObject *frame = take_spare(self);
    if (frame == NULL)
        return NULL;
    if (bnd_transport_enter(self, tried) < 0) {
        keep_spare(self, frame);
        return NULL;
    }
    /* A loop's task must not drain, as hub_recv would: spin_and_arm tries first. */
    int rc = mode == HUB_POLL ? HUB_EAGAIN : hub_recv(self->transport, &frame->frame, HUB_NOW);
    if (rc != 0)
        rc = receive_slowly(self, &frame->frame, rc, mode, timeout_ns, tried, told);
    if (rc == 0)
        bnd_frame_object_deliver(frame, self);
    bnd_transport_leave(self);
    if (rc == 0)
        return (PyObject *)frame;
    keep_spare(self, frame);
    return NULL;
}

PyObject *bnd_transport_receive(TransportObject *self, enum hub_wait_mode mode,
                                int64_t timeout_ns, const char *tried)
{
    bool told = false;
    return receive(self, mode, timeout_ns, tried, &told);
}

/* The exception that is set, as an object: taken off. */
static PyObject *take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

PyObject *bnd_transport_look(TransportObject *self, PyObject *inbox, int64_t timeout_ns,
                             const char *tried)
{
    bool told = false;
    PyObject *frame = receive(self, HUB_LOOK, timeout_ns, tried, &told);
    if (frame != NULL || !told || self->kind != HUB_KIND_ALL_PEERS ||
        !PyErr_ExceptionMatches(PyExc_ConnectionError)) /* for want of memory, say */
        return frame;
    PyObject *gone = take_exception();
    if (gone != NULL)
        (void)PyList_Append(inbox, gone);
    Py_XDECREF(gone);
    return NULL;
}

PyObject *bnd_transport_recv(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const hub_args_spec spec = {"recv", 1, 1, 0, {HUB_NAME_TIMEOUT}};
    int64_t timeout_ns = HUB_TIMEOUT_NONE;
    if (nargs != 0 || kwnames != NULL) {
        PyObject *value;
        if (bnd_args_unpack(self->state, &spec, args, nargs, kwnames, &value) < 0 ||
            bnd_arg_timeout(value, &timeout_ns) < 0)
            return NULL;
    }
    return bnd_transport_receive(self, HUB_WAIT, timeout_ns, "recv");
}

PyObject *bnd_transport_recv_nowait(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *frame = bnd_transport_receive(self, HUB_NOWAIT, 0, "recv_nowait");
    if (frame == NULL && !PyErr_Occurred())
        bnd_transport_raise(self, HUB_EAGAIN, "recv_nowait", HUB_TO_DEFAULT);
    return frame;
}

PyObject *bnd_transport_poll_recv(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *frame = bnd_transport_receive(self, HUB_POLL, 0, "poll_recv");
    if (frame == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return frame;
}

/* ---- several frames ------------------------------------------------------ */
/* All that a batch needs before the core is asked: what has left the ring must not be
 * lost for want of memory. -1 with MemoryError. */
static int prepare_batch(TransportObject *self, unsigned count)
{
    if (self->batch == NULL) {
        self->batch = PyMem_Calloc(HUB_FRAME_SPARES, sizeof(hub_frame));
        if (self->batch == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    while (self->spare_count < count) {
        FrameObject *frame = bnd_frame_object_new(self->state);
        if (frame == NULL)
            return -1;
        self->spares[self->spare_count++] = frame;
    }
    return 0;
}

/* Only what is in use: most of a hub_frame is room for an inline payload. */
static void copy_frame(hub_frame *target, const hub_frame *source)
{
    size_t inline_bytes = source->slot.data != NULL ? 0 : (size_t)source->length;
    memcpy(target, source, offsetof(hub_frame, inline_data) + inline_bytes);
}

/* Received frames into list items [index, ...): number received, or HUB_E*, or -1 with
 * an exception. The lock is the object's: the core is not waited for. */
static int receive_batch(TransportObject *self, PyObject *list, Py_ssize_t index, unsigned count)
{
    int rc;
    HUB_BEGIN_CRITICAL(self);
    rc = prepare_batch(self, count);
    if (rc == 0)
        rc = hub_recv_many(self->transport, self->batch, count);
    for (int i = 0; i < rc; i++) {
        FrameObject *frame = self->spares[--self->spare_count];
        copy_frame(&frame->frame, &self->batch[i]);
        PyList_SET_ITEM(list, index + i,
                        bnd_frame_object_deliver(frame, self));
        Py_SET_SIZE(list, index + i + 1);
    }
    HUB_END_CRITICAL();
    return rc;
}

/* As many as there are, until the list has max. */
void bnd_transport_fill_list(TransportObject *self, PyObject *list, Py_ssize_t max)
{
    for (;;) {
        Py_ssize_t have = PyList_GET_SIZE(list), room = max - have;
        unsigned count = room < HUB_FRAME_SPARES ? (unsigned)room : HUB_FRAME_SPARES;
        if (count == 0 || receive_batch(self, list, have, count) < (int)count)
            return;
    }
}

/* One call gives no more than fits into any sensible ring; the list is made before. */
#define RECV_MANY_MAX 1024

/* Wait for the first one, as recv does. 0, HUB_EAGAIN, or -1 with an exception. */
static int receive_first(TransportObject *self, PyObject *list, enum hub_wait_mode mode,
                         int64_t timeout_ns, const char *tried)
{
    PyObject *frame = bnd_transport_receive(self, mode, timeout_ns, tried);
    if (frame == NULL)
        return PyErr_Occurred() ? -1 : HUB_EAGAIN;
    PyList_SET_ITEM(list, 0, frame);
    Py_SET_SIZE(list, 1);
    return 0;
}

static PyObject *receive_list(TransportObject *self, Py_ssize_t max, enum hub_wait_mode mode,
                              int64_t timeout_ns, const char *tried)
{
    PyObject *list = PyList_New(max);
    if (list == NULL)
        return NULL;
    Py_SET_SIZE(list, 0); /* room for max, and nothing that a collector could stumble over */
    bnd_transport_fill_list(self, list, max);
    if (PyList_GET_SIZE(list) == 0) {
        /* Nothing at once: wait for the first, or find out what is wrong. */
        int rc = PyErr_Occurred() ? -1 : receive_first(self, list, mode, timeout_ns, tried);
        if (rc < 0) {
            Py_DECREF(list);
            if (rc == HUB_EAGAIN)
                bnd_transport_raise(self, rc, tried, HUB_TO_DEFAULT);
            return NULL;
        }
        bnd_transport_fill_list(self, list, max);
    }
    PyErr_Clear(); /* frames before news: what went wrong after them is met by the next call */
    return list;
}

static PyObject *receive_many(TransportObject *self, Py_ssize_t max, enum hub_wait_mode mode,
                              int64_t timeout_ns, const char *tried)
{
    if (bnd_transport_enter(self, tried) < 0)
        return NULL;
    PyObject *list = receive_list(self, max, mode, timeout_ns, tried);
    bnd_transport_leave(self);
    return list;
}

static int parse_max(PyObject *value, Py_ssize_t *ret)
{
    uint64_t max;
    if (bnd_arg_unsigned(value, "max", PY_SSIZE_T_MAX, &max) < 0)
        return -1;
    if (max == 0) {
        PyErr_SetString(PyExc_ValueError, "max must be at least 1, not 0");
        return -1;
    }
    *ret = max < RECV_MANY_MAX ? (Py_ssize_t)max : RECV_MANY_MAX;
    return 0;
}

PyObject *bnd_transport_recv_many(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames)
{
    static const hub_args_spec spec = {
        "recv_many", 2, 2, 1, {HUB_NAME_MAX_FRAMES, HUB_NAME_TIMEOUT}};
    PyObject *values[2];
    Py_ssize_t max;
    int64_t timeout_ns;
    if (bnd_args_unpack(self->state, &spec, args, nargs, kwnames, values) < 0 ||
        parse_max(values[0], &max) < 0 || bnd_arg_timeout(values[1], &timeout_ns) < 0)
        return NULL;
    return receive_many(self, max, HUB_WAIT, timeout_ns, "recv_many");
}

PyObject *bnd_transport_recv_many_nowait(TransportObject *self, PyObject *const *args,
                                         Py_ssize_t nargs, PyObject *kwnames)
{
    static const hub_args_spec spec = {"recv_many_nowait", 1, 1, 1, {HUB_NAME_MAX_FRAMES}};
    PyObject *value;
    Py_ssize_t max;
    if (bnd_args_unpack(self->state, &spec, args, nargs, kwnames, &value) < 0 ||
        parse_max(value, &max) < 0)
        return NULL;
    return receive_many(self, max, HUB_NOWAIT, 0, "recv_many_nowait");
}
