/* transport_gone.c - telling Python that the other side is gone.
 *
 * A one-peer transport raises from every call; one of all peers reports each
 * death once, from receive: by an exception or by calling back. */
#include "transport.h"

#include <stdlib.h>

/* (what it never received); frees the core's array. */
static PyObject *ids_of(hub_gone *gone)
{
    size_t count = gone->ids != NULL ? gone->undelivered : 0;
    PyObject *ids = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; ids != NULL && i < count; i++) {
        PyObject *id = PyLong_FromUnsignedLongLong(gone->ids[i]);
        if (id == NULL)
            Py_CLEAR(ids);
        else
            PyTuple_SET_ITEM(ids, (Py_ssize_t)i, id);
    }
    free(gone->ids);
    gone->ids = NULL;
    return ids;
}

static const char *manner_of(const hub_gone *gone)
{
    if (gone->never_attached)
        return "never attached";
    if (gone->clean)
        return "left in good order";
    return gone->alive ? "hung up or broke the protocol, but its process lives" : "died";
}

/* Raise PeerGoneError; `ids` is a tuple, borrowed. */
static void raise_peer_gone(TransportObject *self, const hub_gone *gone, PyObject *ids,
                            const char *tried)
{
    PyObject *attributes = Py_BuildValue(
        "{s:I,s:I,s:i,s:O,s:O}", "peer_id", gone->peer_id, "epoch", gone->epoch, "pid",
        (int)gone->pid, "clean", gone->clean ? Py_True : Py_False, "undelivered", ids);
    PyObject *text = PyUnicode_FromFormat(
        gone->alive ? "%s() on transport '%U': peer %u (pid %d) %s, so what it "
                      "has received of the last messages is not known (%zd listed); %s"
                    : "%s() on transport '%U': peer %u (pid %d) %s, %zd messages to it were never "
                      "received; %s",
        tried, self->name, gone->peer_id, (int)gone->pid, manner_of(gone), PyTuple_GET_SIZE(ids),
        gone->clean ? "close the transport" : bnd_error_advice(HUB_EPEERGONE));
    if (attributes != NULL && text != NULL)
        bnd_raise_text(self->state, HUB_EPEERGONE, attributes, text);
    Py_XDECREF(attributes);
    Py_XDECREF(text);
}

static PyObject *raise_host_gone(TransportObject *self, const char *tried)
{
    bool clean = hub_transport_clean(self->transport) > 0; /* inside a call: it is there */
    PyObject *attributes = Py_BuildValue("{s:O}", "clean", clean ? Py_True : Py_False);
    PyObject *text = PyUnicode_FromFormat("%s() on transport '%U': the host %s; %s", tried,
                                          self->name, clean ? "closed in good order" : "died",
                                          bnd_error_advice(HUB_EHOSTGONE));
    if (attributes != NULL && text != NULL)
        bnd_raise_text(self->state, HUB_EHOSTGONE, attributes, text);
    Py_XDECREF(attributes);
    Py_XDECREF(text);
    return NULL;
}

/* The ids may be told once only by the core: remembered for the calls after that. */
static PyObject *remember_ids(TransportObject *self, PyObject *ids)
{
    PyObject *known;
    HUB_BEGIN_CRITICAL(self);
    if (PyTuple_GET_SIZE(ids) > 0 || self->gone_ids == NULL)
        Py_XSETREF(self->gone_ids, Py_NewRef(ids));
    known = Py_NewRef(self->gone_ids);
    HUB_END_CRITICAL();
    Py_DECREF(ids);
    return known;
}

static PyObject *raise_one_peer_gone(TransportObject *self, const char *tried)
{
    hub_gone gone = {0};
    gone.peer_id = self->other_id;
    hub_transport_gone(self->transport, &gone);
    PyObject *ids = ids_of(&gone);
    if (ids == NULL)
        return NULL;
    ids = remember_ids(self, ids);
    raise_peer_gone(self, &gone, ids, tried);
    Py_DECREF(ids);
    return NULL;
}

PyObject *bnd_transport_raise_gone(TransportObject *self, const char *tried, uint32_t to)
{
    if (self->kind == HUB_KIND_PEER)
        return raise_host_gone(self, tried);
    if (self->kind == HUB_KIND_HOST_PEER)
        return raise_one_peer_gone(self, tried);
    /* A send to one of all peers: its death is for a receive to report. */
    PyObject *attributes = Py_BuildValue("{s:I}", "peer_id", to);
    PyObject *text = PyUnicode_FromFormat(
        "%s() on transport '%U': peer %u is gone; add a peer and start it again", tried, self->name,
        to);
    if (attributes != NULL && text != NULL)
        bnd_raise_text(self->state, HUB_EPEERGONE, attributes, text);
    Py_XDECREF(attributes);
    Py_XDECREF(text);
    return NULL;
}

static PyObject *callback_of(TransportObject *self)
{
    PyObject *callback;
    HUB_BEGIN_CRITICAL(self);
    callback = Py_XNewRef(self->on_gone);
    HUB_END_CRITICAL();
    return callback;
}

static int call_back(PyObject *callback, const hub_gone *gone, PyObject *ids)
{
    PyObject *result =
        PyObject_CallFunction(callback, "IIOiO", gone->peer_id, gone->epoch,
                              gone->clean ? Py_True : Py_False, (int)gone->pid, ids);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

int bnd_transport_tell_gone(TransportObject *self, const char *tried)
{
    if (self->kind != HUB_KIND_ALL_PEERS) {
        bnd_transport_raise_gone(self, tried, HUB_TO_DEFAULT);
        return -1;
    }
    hub_gone gone = {0};
    if (hub_transport_gone(self->transport, &gone) <= 0)
        return 0; /* another thread, or pop_gone(), has told already */
    PyObject *ids = ids_of(&gone);
    if (ids == NULL)
        return -1;
    PyObject *callback = callback_of(self);
    int rc = -1;
    if (callback != NULL)
        rc = call_back(callback, &gone, ids);
    else
        raise_peer_gone(self, &gone, ids, tried);
    Py_XDECREF(callback);
    Py_DECREF(ids);
    return rc;
}

PyObject *bnd_transport_pop_gone(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    if (bnd_transport_enter(self, "pop_gone") < 0)
        return NULL;
    hub_gone gone = {0};
    int rc = hub_transport_gone(self->transport, &gone);
    bnd_transport_leave(self);
    if (rc < 0)
        return bnd_transport_raise(self, rc, "pop_gone", HUB_TO_DEFAULT);
    if (rc == 0)
        Py_RETURN_NONE;
    PyObject *ids = ids_of(&gone);
    PyObject *list = ids == NULL ? NULL : PySequence_List(ids);
    Py_XDECREF(ids);
    if (list == NULL)
        return NULL;
    return Py_BuildValue("(IIOiN)", gone.peer_id, gone.epoch, gone.clean ? Py_True : Py_False,
                         (int)gone.pid, list);
}

PyObject *bnd_transport_set_on_gone(TransportObject *self, PyObject *callable)
{
    if (callable != Py_None && !PyCallable_Check(callable))
        return PyErr_Format(PyExc_TypeError, "set_on_gone() takes a callable or None, not %.100s",
                            Py_TYPE(callable)->tp_name);
    PyObject *old;
    HUB_BEGIN_CRITICAL(self);
    old = self->on_gone;
    self->on_gone = callable == Py_None ? NULL : Py_NewRef(callable);
    HUB_END_CRITICAL();
    Py_XDECREF(old); /* outside: it may run anything */
    Py_RETURN_NONE;
}
