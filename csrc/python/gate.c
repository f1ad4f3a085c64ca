/* gate.c - _core.Gate: the way past a group's queue, for the calls of a plugin that has one replica
 * which is doing nothing.
 *
 * No lock is taken: all of it happens between two points where another thread may have the GIL,
 * but for the call itself, during which `busy` says so.  Whoever queues a call because the gate
 * was busy, or waits until nothing is under way, says that first (`pending`, `watchers`) and
 * looks at `busy` afterwards; here `busy` ends first and those are looked at afterwards.  So one
 * of the two sees the other.  Without a GIL the object's lock does the same for `busy`. */
#include "args.h"

typedef struct GateObject {
    PyObject_HEAD
    PyObject *caller;   /* a Caller, or None: closed */
    PyObject *channel;  /* whose it is: .in_flight */
    PyObject *pending;  /* the group's queue */
    PyObject *current;  /* ContextVar: set in the course of another call */
    PyObject *finish;   /* callable: (channel, Call, method, args, deadline) -> result */
    PyObject *settled;  /* callable: (channel): somebody waits for the end of this call */
    PyObject *in_flight_name;
    int watchers;
    bool busy;
} GateObject;

PyDoc_STRVAR(gate_doc,
"Gate(pending, current, finish, settled)\n--\n\n"
"Lets calls past the queue of a plugin with one idle replica.");

static int gate_init(GateObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *pending, *current, *finish, *settled;
    if (self->pending != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Gate.__init__() was called already");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OO!OO:Gate", &pending, &PyContextVar_Type, &current, &finish,
                          &settled))
        return -1;
    self->in_flight_name = PyUnicode_InternFromString("in_flight");
    if (self->in_flight_name == NULL)
        return -1;
    self->pending = Py_NewRef(pending);
    self->current = Py_NewRef(current);
    self->finish = Py_NewRef(finish);
    self->settled = Py_NewRef(settled);
    self->caller = Py_NewRef(Py_None);
    self->channel = Py_NewRef(Py_None);
    return 0;
}

static int gate_traverse(GateObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->caller);
    Py_VISIT(self->channel);
    Py_VISIT(self->pending);
    Py_VISIT(self->current);
    Py_VISIT(self->finish);
    Py_VISIT(self->settled);
    return 0;
}

static int gate_clear(GateObject *self)
{
    Py_CLEAR(self->caller);
    Py_CLEAR(self->channel);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->current);
    Py_CLEAR(self->finish);
    Py_CLEAR(self->settled);
    return 0;
}

static void gate_dealloc(GateObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    gate_clear(self);
    Py_CLEAR(self->in_flight_name);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* Has the replica nothing to do, and nobody an older claim? -1: exception. */
static int is_idle(const GateObject *self)
{
    Py_ssize_t waiting = PyObject_Size(self->pending);
    if (waiting != 0)
        return waiting < 0 ? -1 : 0;
    PyObject *within, *in_flight;
    if (PyContextVar_Get(self->current, NULL, &within) < 0)
        return -1;
    bool inside = within != NULL && within != Py_None;
    Py_XDECREF(within);
    if (inside)
        return 0;
    in_flight = PyObject_GetAttr(self->channel, self->in_flight_name);
    if (in_flight == NULL)
        return -1;
    int some = PyObject_IsTrue(in_flight);
    Py_DECREF(in_flight);
    return some < 0 ? -1 : some == 0;
}

/* Take the way: the Caller, a new reference; NULL: it is not free, or an exception. */
static PyObject *go_in(GateObject *self)
{
    PyObject *caller = NULL;
    int idle;
    HUB_BEGIN_CRITICAL(self);
    if (self->caller != NULL && self->caller != Py_None && !self->busy) {
        idle = is_idle(self);
        if (idle > 0) {
            caller = Py_NewRef(self->caller);
            self->busy = true;
        }
    }
    HUB_END_CRITICAL();
    return caller;
}

/* Its end; keeps the exception that is set. */
static void go_out(GateObject *self, PyObject *channel)
{
    PyObject *type, *error, *traceback;
    HUB_BEGIN_CRITICAL(self);
    self->busy = false;
    HUB_END_CRITICAL();
    if (self->watchers == 0 && PyObject_Size(self->pending) == 0)
        return;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *done = PyObject_CallOneArg(self->settled, channel);
    if (done == NULL)
        PyErr_WriteUnraisable(self->settled);
    Py_XDECREF(done);
    PyErr_Restore(type, error, traceback);
}

/* The rest of a call that is more than a message each way. Takes the reference to `call`. */
static PyObject *finish(GateObject *self, PyObject *channel, PyObject *call, PyObject *method,
                        PyObject *args, int64_t deadline_ns)
{
    PyObject *deadline = deadline_ns == 0 ? Py_NewRef(Py_None)
                                          : PyFloat_FromDouble((double)deadline_ns / 1e9);
    PyObject *result = deadline == NULL ? NULL
                                        : PyObject_CallFunctionObjArgs(self->finish, channel, call,
                                                                       method, args, deadline, NULL);
    Py_XDECREF(deadline);
    Py_DECREF(call);
    return result;
}

static PyObject *gate_call(GateObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t timeout_ns, deadline_ns = 0;
    bool adopted = false;
    if (nargs != 3 || !PyTuple_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "call() takes a name, a tuple and a timeout");
    PyObject *caller = go_in(self);
    if (caller == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_NotImplemented);
    PyObject *channel = Py_NewRef(self->channel), *result = NULL;
    if (bnd_arg_timeout(args[2], &timeout_ns) == 0) {
        if (timeout_ns != HUB_TIMEOUT_NONE)
            deadline_ns = bnd_arg_deadline_of(timeout_ns);
        result = bnd_caller_exchange(caller, args[0], args[1], deadline_ns, false, &adopted);
    }
    go_out(self, channel);
    if (result != NULL && adopted)
        result = finish(self, channel, result, args[0], args[1], deadline_ns);
    Py_DECREF(channel);
    Py_DECREF(caller);
    return result;
}

static PyObject *gate_open(GateObject *self, PyObject *args)
{
    PyObject *caller, *channel;
    hub_state *state = bnd_state_of_type(Py_TYPE(self));
    if (state == NULL || !PyArg_ParseTuple(args, "O!O:open", state->caller_type, &caller, &channel))
        return NULL;
    Py_XSETREF(self->channel, Py_NewRef(channel));
    Py_XSETREF(self->caller, Py_NewRef(caller));
    Py_RETURN_NONE;
}

static PyObject *gate_close(GateObject *self, PyObject *Py_UNUSED(unused))
{
    Py_XSETREF(self->caller, Py_NewRef(Py_None));
    Py_RETURN_NONE;
}

static PyObject *gate_get_busy(GateObject *self, void *Py_UNUSED(unused))
{
    return Py_NewRef(self->busy && self->channel != NULL ? self->channel : Py_None);
}

static PyMethodDef gate_methods[] = {
    {"call", (PyCFunction)(void (*)(void))gate_call, METH_FASTCALL,
     PyDoc_STR("call($self, method, args, timeout, /)\n--\n\n"
               "Call and wait; NotImplemented: not this way, nothing was sent.")},
    {"open", (PyCFunction)gate_open, METH_VARARGS,
     PyDoc_STR("open($self, caller, channel, /)\n--\n\nThe way is to this replica.")},
    {"close", (PyCFunction)gate_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nThere is none; a call that is under way goes on.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef gate_members[] = {
    {"watchers", T_INT, offsetof(GateObject, watchers), 0,
     PyDoc_STR("How many want to be told (`settled`) when a call has ended.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef gate_getset[] = {
    {"busy", (getter)gate_get_busy, NULL, PyDoc_STR("The channel with a call, or None."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_doc, (void *)gate_doc},
    {Py_tp_init, gate_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_traverse, gate_traverse},
    {Py_tp_clear, gate_clear},
    {Py_tp_methods, gate_methods},
    {Py_tp_members, gate_members},
    {Py_tp_getset, gate_getset},
    {0, NULL},
};

PyType_Spec bnd_gate_spec = {
    .name = "shmhub._core.Gate",
    .basicsize = sizeof(GateObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gate_slots,
};
