/* callee.c - _core.Callee: executes the calls that fit into one message each way, in the thread of
 * a plugin with one thread, without a step of Python but the method itself.
 *
 * It has the turn (turn.c) while it waits and until the call is among those that run, so that a
 * cancel cannot overtake it; not while the method runs.  Whatever is not that simple goes into the
 * inbox and is Python's, and so is every answer that is not a small plain value. */
#include "rpc_wire.h"
#include "transport.h"

typedef struct CalleeObject {
    PyObject_HEAD
    TransportObject *transport;
    PyObject *turn;
    PyObject *inbox;     /* list: what was received and nobody has dealt with */
    PyObject *table;     /* tuple by method number: (function, views or None), or None: Python's */
    PyObject *waiter;    /* .done: serve no more */
    PyObject *tasks;     /* its deque: calls that are Python's come first */
    PyObject *nested;    /* dict: threads in the course of a call, which may have to run this one */
    PyObject *running;   /* dict: message id -> CurrentCall */
    PyObject *current;   /* ContextVar */
    PyObject *make_call; /* callable: (number, id, deadline, tree) -> CurrentCall */
    PyObject *answer;    /* callable: (CurrentCall, value) */
    PyObject *raised;    /* callable: (CurrentCall, number, exception, args) */
    PyObject *execute;   /* callable: (frame), for what cannot be decoded */
    PyObject *spare;     /* a CurrentCall that nobody has kept, or NULL */
    PyObject *spare_number;
    PyObject *name_done, *name_cancelled, *name_id, *name_deadline, *name_tree;
    uint64_t life; /* as in message ids, shifted down */
    bool has_life;
} CalleeObject;

PyDoc_STRVAR(callee_doc,
"Callee(transport, turn, inbox, table, waiter, tasks, nested, running, current,\n"
"       make_call, answer, raised, execute)\n--\n\n"
"Executes the simple calls of one link.");

static int intern(PyObject **ret, const char *name)
{
    *ret = PyUnicode_InternFromString(name);
    return *ret != NULL ? 0 : -1;
}

static int callee_init(CalleeObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    hub_state *state = bnd_state_of_type(Py_TYPE(self));
    PyObject *of[13];
    if (state == NULL || self->transport != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Callee.__init__() was called already");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "O!O!O!O!OOO!O!O!OOOO:Callee", state->transport_type, &of[0],
                          state->turn_type, &of[1], &PyList_Type, &of[2], &PyTuple_Type, &of[3],
                          &of[4], &of[5], &PyDict_Type, &of[6], &PyDict_Type, &of[7],
                          &PyContextVar_Type, &of[8], &of[9], &of[10], &of[11], &of[12]))
        return -1;
    if (intern(&self->name_done, "done") < 0 || intern(&self->name_cancelled, "_cancelled") < 0 ||
        intern(&self->name_id, "id") < 0 || intern(&self->name_deadline, "deadline") < 0 ||
        intern(&self->name_tree, "tree") < 0)
        return -1;
    PyObject **into[] = {&self->turn,    &self->inbox,   &self->table,     &self->waiter,
                         &self->tasks,   &self->nested,  &self->running,   &self->current,
                         &self->make_call, &self->answer, &self->raised,   &self->execute};
    for (size_t i = 0; i < sizeof into / sizeof *into; i++)
        *into[i] = Py_NewRef(of[i + 1]);
    self->transport = (TransportObject *)Py_NewRef(of[0]);
    return 0;
}

static int callee_traverse(CalleeObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->transport);
    Py_VISIT(self->turn);
    Py_VISIT(self->inbox);
    Py_VISIT(self->table);
    Py_VISIT(self->waiter);
    Py_VISIT(self->tasks);
    Py_VISIT(self->nested);
    Py_VISIT(self->running);
    Py_VISIT(self->current);
    Py_VISIT(self->make_call);
    Py_VISIT(self->answer);
    Py_VISIT(self->raised);
    Py_VISIT(self->execute);
    Py_VISIT(self->spare);
    return 0;
}

static int callee_clear(CalleeObject *self)
{
    Py_CLEAR(self->transport);
    Py_CLEAR(self->turn);
    Py_CLEAR(self->inbox);
    Py_CLEAR(self->table);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->tasks);
    Py_CLEAR(self->nested);
    Py_CLEAR(self->running);
    Py_CLEAR(self->current);
    Py_CLEAR(self->make_call);
    Py_CLEAR(self->answer);
    Py_CLEAR(self->raised);
    Py_CLEAR(self->execute);
    Py_CLEAR(self->spare);
    Py_CLEAR(self->spare_number);
    return 0;
}

static void callee_dealloc(CalleeObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    callee_clear(self);
    Py_CLEAR(self->name_done);
    Py_CLEAR(self->name_cancelled);
    Py_CLEAR(self->name_id);
    Py_CLEAR(self->name_deadline);
    Py_CLEAR(self->name_tree);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* ---- what runs ------------------------------------------------------------- */
/* One attribute's truth: 1, 0, or -1 with an exception. */
static int is_set(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

static PyObject *deadline_of(const hub_message *message)
{
    if (message->deadline_ns == 0)
        return Py_NewRef(Py_None);
    return PyFloat_FromDouble((double)message->deadline_ns / 1e9);
}

/* The CurrentCall of a call that begins: the last one's object, if nobody has kept it. */
static PyObject *begin_call(CalleeObject *self, const hub_message *message, PyObject *id)
{
    PyObject *call = self->spare, *known = self->spare_number;
    self->spare = self->spare_number = NULL;
    PyObject *deadline = deadline_of(message);
    PyObject *tree = PyLong_FromUnsignedLong(message->flags >> HUB_RPC_TREE_SHIFT);
    PyObject *number = PyLong_FromLong(message->method);
    if (deadline == NULL || tree == NULL || number == NULL) {
        Py_CLEAR(call);
    } else if (call == NULL || known == NULL || PyObject_RichCompareBool(known, number, Py_EQ) != 1) {
        Py_XDECREF(call);
        call = PyObject_CallFunctionObjArgs(self->make_call, number, id, deadline, tree, NULL);
    } else if (PyObject_SetAttr(call, self->name_id, id) < 0 ||
               PyObject_SetAttr(call, self->name_deadline, deadline) < 0 ||
               PyObject_SetAttr(call, self->name_tree, tree) < 0) {
        Py_CLEAR(call);
    }
    Py_XDECREF(known);
    Py_XDECREF(deadline);
    Py_XDECREF(tree);
    self->spare_number = number;
    return call;
}

/* Takes the reference. */
static void end_call(CalleeObject *self, PyObject *call, bool again)
{
    if (again && Py_REFCNT(call) == 1 && self->spare == NULL)
        self->spare = call;
    else
        Py_DECREF(call);
}

/* The answer in one small message. 0: sent, or there is nobody to send it to; -1: Python's. */
static int answer_simply(CalleeObject *self, const hub_message *call, PyObject *value)
{
    char data[HUB_INLINE_MAX];
    Py_ssize_t length = bnd_plain_write(value, data, sizeof data);
    if (length < 0 || self->transport->transport == NULL)
        return -1;
    hub_message message = {.channel = HUB_RPC_RESULT, .message_id = call->message_id};
    return hub_send(self->transport->transport, HUB_TO_DEFAULT, &message, data, (uint64_t)length,
                    HUB_NOW) == 0
               ? 0
               : -1;
}

static int call_python(PyObject *function, PyObject *a, PyObject *b, PyObject *c, PyObject *d)
{
    PyObject *result = PyObject_CallFunctionObjArgs(function, a, b, c, d, NULL);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* The method has raised. */
static int answer_raised(CalleeObject *self, PyObject *call, uint16_t method, PyObject *args)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    PyObject *number = PyLong_FromLong(method);
    int rc = number == NULL ? -1 : call_python(self->raised, call, number, error, args);
    Py_XDECREF(number);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return rc;
}

/* Leave the call's context; keeps the exception that is set. */
static void leave_call(CalleeObject *self, PyObject *token)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (PyContextVar_Reset(self->current, token) < 0)
        PyErr_Clear();
    PyErr_Restore(type, error, traceback);
    Py_DECREF(token);
}

/* Run it, and answer. Takes the reference to args: their slots, if a view keeps one, are free
 * before the answer asks for one. What can be done after the answer is: the caller works by then. */
static int run(CalleeObject *self, PyObject *function, PyObject *call, PyObject *args,
               const hub_message *message)
{
    PyObject *token = PyContextVar_Set(self->current, call);
    if (token == NULL) {
        Py_DECREF(args);
        return -1;
    }
    PyObject *value = PyObject_Call(function, args, NULL);
    int rc = value == NULL ? answer_raised(self, call, message->method, args) : 0;
    int cancelled = value == NULL ? 0 : is_set(call, self->name_cancelled);
    bool answered = value != NULL && cancelled == 0 && answer_simply(self, message, value) == 0;
    Py_DECREF(args);
    leave_call(self, token);
    if (value == NULL)
        return rc;
    if (!answered)
        rc = cancelled < 0 ? -1 : call_python(self->answer, call, value, NULL, NULL);
    Py_DECREF(value);
    return rc;
}

/* A call that is simple: the turn is given up as soon as it is known to run. Takes the frame. */
static int serve_call(CalleeObject *self, PyObject *frame, PyObject *entry)
{
    const hub_frame *core = &((FrameObject *)frame)->frame;
    const hub_message message = core->message;
    PyObject *id = PyLong_FromUnsignedLongLong(message.message_id);
    PyObject *call = id == NULL ? NULL : begin_call(self, &message, id);
    int rc = call == NULL ? -1 : PyDict_SetItem(self->running, id, call);
    bnd_turn_give(self->turn);
    PyObject *args = NULL;
    if (rc == 0) {
        PyObject *views = PyTuple_GET_ITEM(entry, 1);
        args = bnd_plain_read(frame, (const char *)core->inline_data, core->length,
                              views == Py_None ? NULL : views);
        if (args == NULL || !PyTuple_CheckExact(args)) {
            PyErr_Clear();
            Py_CLEAR(args);
            (void)PyDict_DelItem(self->running, id);
            rc = call_python(self->execute, frame, NULL, NULL, NULL); /* which says what is wrong */
        }
    }
    Py_DECREF(frame); /* with the last view of it */
    if (args != NULL) {
        rc = run(self, PyTuple_GET_ITEM(entry, 0), call, args, &message);
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (PyDict_DelItem(self->running, id) < 0)
            PyErr_Clear();
        PyErr_Restore(type, error, traceback);
    }
    if (call != NULL)
        end_call(self, call, rc == 0 && is_set(call, self->name_cancelled) == 0);
    Py_XDECREF(id);
    return rc;
}

/* What it calls, if that is simple; borrowed. NULL: Python's. */
static PyObject *simple_entry(const CalleeObject *self, PyObject *frame)
{
    const hub_frame *core = &((FrameObject *)frame)->frame;
    const hub_message *message = &core->message;
    uint64_t life = (message->message_id >> HUB_RPC_LIFE_SHIFT) & HUB_RPC_LIFE_MASK;
    if (message->channel != HUB_RPC_CALL || (message->flags & HUB_RPC_NOT_SIMPLE) != 0 ||
        core->slot.data != NULL || !self->has_life || life != self->life ||
        message->method >= PyTuple_GET_SIZE(self->table))
        return NULL;
    if (message->deadline_ns != 0 && message->deadline_ns <= hub_clock_ns())
        return NULL;
    PyObject *entry = PyTuple_GET_ITEM(self->table, message->method);
    return entry == Py_None || PyDict_GET_SIZE(self->nested) > 0 ? NULL : entry;
}

/* Is there something that is Python's to do? -1: exception. */
static int has_others(CalleeObject *self)
{
    if (PyList_GET_SIZE(self->inbox) > 0)
        return 1;
    Py_ssize_t tasks = PyObject_Size(self->tasks);
    if (tasks != 0)
        return tasks < 0 ? -1 : 1;
    return is_set(self->waiter, self->name_done);
}

static PyObject *callee_serve(CalleeObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->transport == NULL)
        Py_RETURN_NONE;
    for (;;) {
        int others = has_others(self);
        if (others < 0)
            return NULL;
        if (others > 0 || !bnd_turn_take(self->turn))
            Py_RETURN_NONE;
        PyObject *frame =
            bnd_transport_look(self->transport, self->inbox, HUB_TIMEOUT_NONE, "collect");
        PyObject *entry = frame != NULL ? simple_entry(self, frame) : NULL;
        if (entry != NULL) {
            if (serve_call(self, frame, entry) < 0)
                return NULL;
            continue;
        }
        int rc = PyErr_Occurred() ? -1 : 0;
        if (frame != NULL)
            rc = PyList_Append(self->inbox, frame);
        Py_XDECREF(frame);
        bnd_turn_give(self->turn);
        if (rc < 0)
            return NULL;
        Py_RETURN_NONE;
    }
}

static PyObject *callee_set_life(CalleeObject *self, PyObject *life)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(life);
    if (PyErr_Occurred())
        return NULL;
    self->life = value;
    self->has_life = true;
    Py_RETURN_NONE;
}

static PyMethodDef callee_methods[] = {
    {"serve", (PyCFunction)callee_serve, METH_NOARGS,
     PyDoc_STR("serve($self, /)\n--\n\n"
               "Until something is to be done that is not a simple call, or somebody else has the\n"
               "turn. Raises what a receive raises, and what a method may not keep to itself.")},
    {"set_life", (PyCFunction)callee_set_life, METH_O,
     PyDoc_STR("set_life($self, life, /)\n--\n\n"
               "Only calls of this life of the link are served; before this, none.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot callee_slots[] = {
    {Py_tp_doc, (void *)callee_doc},
    {Py_tp_init, callee_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, callee_dealloc},
    {Py_tp_traverse, callee_traverse},
    {Py_tp_clear, callee_clear},
    {Py_tp_methods, callee_methods},
    {0, NULL},
};

PyType_Spec bnd_callee_spec = {
    .name = "shmhub._core.Callee",
    .basicsize = sizeof(CalleeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = callee_slots,
};
