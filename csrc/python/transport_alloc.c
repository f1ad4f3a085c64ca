/* transport_alloc.c - slots out of the pool, and the armed waiters of event loops.
 *
 * An armed waiter stays armed until a poll of its kind succeeds or poll_cancel()
 * ends it.  A poll_send() that found the pool empty waits for a slot as poll_alloc()
 * does, but is forgotten by poll_cancel('send'); so who armed what is kept apart. */
#include "transport.h"
#include "wait.h"

#include <string.h>

/* ---- armed waiters ------------------------------------------------------- */
int bnd_transport_arm(TransportObject *self, enum hub_armed who, uint32_t to, uint64_t length)
{
    int kind = who == HUB_ARMED_SEND ? HUB_POLL_SEND : HUB_POLL_ALLOC;
    int rc = hub_poll_arm(self->transport, to, kind, length);
    if (rc < 0)
        return rc;
    HUB_BEGIN_CRITICAL(self);
    self->armed |= who;
    HUB_END_CRITICAL();
    return rc;
}

void bnd_transport_disarm(TransportObject *self, unsigned who)
{
    unsigned before, after;
    HUB_BEGIN_CRITICAL(self);
    before = self->armed;
    after = before & ~who;
    self->armed = after;
    HUB_END_CRITICAL();
    const unsigned for_slot = HUB_ARMED_ALLOC | HUB_ARMED_SEND_ALLOC;
    if ((before & HUB_ARMED_SEND) && !(after & HUB_ARMED_SEND))
        hub_poll_cancel(self->transport, HUB_POLL_SEND);
    if ((before & for_slot) && !(after & for_slot))
        hub_poll_cancel(self->transport, HUB_POLL_ALLOC);
}

PyObject *bnd_transport_poll_cancel(TransportObject *self, PyObject *kind)
{
    const char *text = PyUnicode_AsUTF8(kind);
    if (text == NULL)
        return NULL;
    unsigned who = 0;
    if (strcmp(text, "send") == 0)
        who = HUB_ARMED_SEND | HUB_ARMED_SEND_ALLOC;
    else if (strcmp(text, "alloc") == 0)
        who = HUB_ARMED_ALLOC;
    else
        return PyErr_Format(PyExc_ValueError, "poll_cancel() takes 'send' or 'alloc', not %R",
                            kind);
    if (bnd_transport_enter(self, "poll_cancel") < 0)
        return NULL;
    bnd_transport_disarm(self, who);
    bnd_transport_leave(self);
    Py_RETURN_NONE;
}

/* ---- allocation ---------------------------------------------------------- */
static int try_alloc(TransportObject *self, uint64_t size, hub_slot *ret)
{
    int rc;
    if (size < HUB_ALLOC_WITHOUT_GIL)
        return hub_alloc(self->transport, size, HUB_NOW, ret);
    Py_BEGIN_ALLOW_THREADS /* may back it */
    rc = hub_alloc(self->transport, size, HUB_NOW, ret);
    Py_END_ALLOW_THREADS
    return rc;
}

static int wait_alloc(TransportObject *self, uint64_t size, int64_t deadline, hub_slot *ret)
{
    bnd_wait wait = bnd_wait_begin(deadline);
    int rc;
    do {
        Py_BEGIN_ALLOW_THREADS
        rc = hub_alloc(self->transport, size, bnd_wait_next(&wait), ret);
        Py_END_ALLOW_THREADS
    } while (bnd_wait_again(&wait, rc));
    return rc;
}

int bnd_transport_wait_alloc_to(TransportObject *self, uint32_t to, uint64_t size,
                                int64_t deadline, hub_slot *ret)
{
    bnd_wait wait = bnd_wait_begin(deadline);
    int rc;
    do {
        Py_BEGIN_ALLOW_THREADS
        rc = hub_alloc_to(self->transport, to, size, bnd_wait_next(&wait), ret);
        Py_END_ALLOW_THREADS
    } while (bnd_wait_again(&wait, rc));
    return rc;
}

/* 0 allocated, 1 armed, HUB_E*. */
static int poll_for_slot(TransportObject *self, uint64_t size, hub_slot *ret)
{
    int rc = try_alloc(self, size, ret);
    if (rc == HUB_EEXHAUSTED) {
        rc = bnd_transport_arm(self, HUB_ARMED_ALLOC, HUB_TO_DEFAULT, size);
        if (rc < 0)
            return rc;
        rc = try_alloc(self, size, ret); /* one may have come free before we were armed */
        if (rc == HUB_EEXHAUSTED)
            return 1;
    }
    if (self->armed & HUB_ARMED_ALLOC)
        bnd_transport_disarm(self, HUB_ARMED_ALLOC);
    return rc < 0 ? rc : 0;
}

static int wait_for_slot(TransportObject *self, uint64_t size, int64_t timeout_ns, hub_slot *ret)
{
    int rc = try_alloc(self, size, ret);
    if (rc != HUB_EEXHAUSTED)
        return rc;
    if (timeout_ns == 0)
        return HUB_ETIMEDOUT;
    return wait_alloc(self, size, bnd_arg_deadline_of(timeout_ns), ret);
}

static PyObject *raise_alloc(TransportObject *self, int code, const char *tried, uint64_t size)
{
    if (code == HUB_EPEERGONE || code == HUB_EHOSTGONE)
        return bnd_transport_raise(self, code, tried, HUB_TO_DEFAULT);
    return bnd_raise(self->state, code, NULL, "%s() of %llu bytes on transport '%U'", tried,
                     (unsigned long long)size, self->name);
}

PyObject *bnd_transport_alloc_slot_to(TransportObject *self, uint32_t to, uint64_t size,
                                      int64_t timeout_ns, const char *tried)
{
    hub_slot slot;
    SlotObject *object = bnd_slot_object_new(self->state);
    if (object == NULL)
        return NULL;
    if (bnd_transport_enter(self, tried) < 0) {
        Py_DECREF(object);
        return NULL;
    }
    int rc = try_alloc(self, size, &slot);
    if (rc == HUB_EEXHAUSTED && timeout_ns != 0)
        rc = bnd_transport_wait_alloc_to(self, to, size, bnd_arg_deadline_of(timeout_ns), &slot);
    if (rc >= 0)
        bnd_slot_object_fill(object, self->session, &slot, size);
    else if (rc == HUB_EPEERGONE || rc == HUB_EHOSTGONE)
        bnd_transport_raise(self, rc, tried, to);
    else
        raise_alloc(self, rc, tried, size);
    bnd_transport_leave(self);
    if (rc >= 0)
        return (PyObject *)object;
    Py_DECREF(object);
    return NULL;
}

/* The object first: a slot that no object can hold would have to be given back. */
static PyObject *alloc_slot(TransportObject *self, PyObject *nbytes, enum hub_wait_mode mode,
                            int64_t timeout_ns, const char *tried)
{
    uint64_t size;
    hub_slot slot;
    int rc;
    if (bnd_arg_unsigned(nbytes, "nbytes", INT64_MAX, &size) < 0)
        return NULL;
    SlotObject *object = bnd_slot_object_new(self->state);
    if (object == NULL)
        return NULL;
    if (bnd_transport_enter(self, tried) < 0) {
        Py_DECREF(object);
        return NULL;
    }
    if (mode == HUB_NOWAIT)
        rc = try_alloc(self, size, &slot);
    else if (mode == HUB_POLL)
        rc = poll_for_slot(self, size, &slot);
    else
        rc = wait_for_slot(self, size, timeout_ns, &slot);
    if (rc == 0)
        bnd_slot_object_fill(object, self->session, &slot, size);
    else if (rc < 0)
        raise_alloc(self, rc, tried, size);
    bnd_transport_leave(self);
    if (rc == 0)
        return (PyObject *)object;
    Py_DECREF(object);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *bnd_transport_alloc(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const hub_args_spec spec = {"alloc", 2, 1, 1, {HUB_NAME_NBYTES, HUB_NAME_TIMEOUT}};
    PyObject *values[2];
    int64_t timeout_ns;
    if (bnd_args_unpack(self->state, &spec, args, nargs, kwnames, values) < 0 ||
        bnd_arg_timeout(values[1], &timeout_ns) < 0)
        return NULL;
    return alloc_slot(self, values[0], HUB_WAIT, timeout_ns, "alloc");
}

PyObject *bnd_transport_alloc_nowait(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *kwnames)
{
    static const hub_args_spec spec = {"alloc_nowait", 1, 1, 1, {HUB_NAME_NBYTES}};
    PyObject *value;
    if (nargs == 1 && kwnames == NULL)
        value = args[0];
    else if (bnd_args_unpack(self->state, &spec, args, nargs, kwnames, &value) < 0)
        return NULL;
    return alloc_slot(self, value, HUB_NOWAIT, 0, "alloc_nowait");
}

PyObject *bnd_transport_poll_alloc(TransportObject *self, PyObject *nbytes)
{
    return alloc_slot(self, nbytes, HUB_POLL, 0, "poll_alloc");
}
