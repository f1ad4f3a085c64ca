/* caller.c - _core.Caller: a call that fits into one message each way, from its arguments to its
 * result without a step of Python in between.
 *
 * It has the turn (turn.c) from before it sends until it has its answer, so nobody else can
 * receive that.  Whatever is not that simple is Python's: before anything is sent, by
 * NotImplemented; afterwards by `adopt`, which makes a Call of it that all threads can find,
 * while the turn is still held.
 *
 * While this thread waits, a signal handler may run; if that calls a plugin it is refused
 * (`Group.wait`), for what it would receive in our place nobody would give us. */
#include "rpc_wire.h"
#include "transport.h"

typedef struct CallerObject {
    PyObject_HEAD
    TransportObject *transport;
    PyObject *turn;
    PyObject *inbox;   /* list: what was received and nobody has dealt with */
    PyObject *next_id; /* callable */
    PyObject *adopt;   /* callable: (id, method, frame or None, exception or None, counted) -> Call */
    PyObject *numbers; /* dict: name of a method -> its number */
    uint64_t life;     /* the bits of a message id that are the link's */
    uint32_t to;
    bool closed;
} CallerObject;

PyDoc_STRVAR(caller_doc,
"Caller(transport, turn, inbox, next_id, adopt, numbers, life, to)\n--\n\n"
"Makes the simple calls of one link.");

static int caller_init(CallerObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyTypeObject *base = Py_TYPE(self);
    hub_state *state = bnd_state_of_type(base);
    PyObject *transport, *turn, *inbox, *next_id, *adopt, *numbers;
    unsigned long long life;
    unsigned to;
    if (state == NULL || self->transport != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Caller.__init__() was called already");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "O!O!O!OOO!KI:Caller", state->transport_type, &transport,
                          state->turn_type, &turn, &PyList_Type, &inbox, &next_id, &adopt,
                          &PyDict_Type, &numbers, &life, &to))
        return -1;
    self->transport = (TransportObject *)Py_NewRef(transport);
    self->turn = Py_NewRef(turn);
    self->inbox = Py_NewRef(inbox);
    self->next_id = Py_NewRef(next_id);
    self->adopt = Py_NewRef(adopt);
    self->numbers = Py_NewRef(numbers);
    self->life = life;
    self->to = self->transport->kind == HUB_KIND_ALL_PEERS ? to : HUB_TO_DEFAULT;
    return 0;
}

static int caller_traverse(CallerObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->transport);
    Py_VISIT(self->turn);
    Py_VISIT(self->inbox);
    Py_VISIT(self->next_id);
    Py_VISIT(self->adopt);
    Py_VISIT(self->numbers);
    return 0;
}

static int caller_clear(CallerObject *self)
{
    Py_CLEAR(self->transport);
    Py_CLEAR(self->turn);
    Py_CLEAR(self->inbox);
    Py_CLEAR(self->next_id);
    Py_CLEAR(self->adopt);
    Py_CLEAR(self->numbers);
    return 0;
}

static void caller_dealloc(CallerObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    caller_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* ---- one call ------------------------------------------------------------ */
static int make_id(CallerObject *self, uint64_t *ret)
{
    PyObject *count = PyObject_CallNoArgs(self->next_id);
    if (count == NULL)
        return -1;
    *ret = PyLong_AsUnsignedLongLongMask(count) | self->life;
    Py_DECREF(count);
    return PyErr_Occurred() ? -1 : 0;
}

/* The number of the method. 0, or -1: it is not one of those; no exception. */
static int number_of(CallerObject *self, PyObject *method, uint16_t *ret)
{
    PyObject *number = PyDict_GetItemWithError(self->numbers, method); /* borrowed */
    unsigned long value = number != NULL ? PyLong_AsUnsignedLong(number) : ULONG_MAX;
    if (value > UINT16_MAX) {
        PyErr_Clear();
        return -1;
    }
    *ret = (uint16_t)value;
    return 0;
}

/* Send it, with the turn. 0: sent; -1: not, and Python is to try; an exception may be set. */
static int send_call(CallerObject *self, PyObject *method, PyObject *args, int64_t deadline_ns,
                     hub_message *message)
{
    char data[HUB_INLINE_MAX];
    *message = (hub_message){.channel = HUB_RPC_CALL, .deadline_ns = deadline_ns};
    if (number_of(self, method, &message->method) < 0)
        return -1;
    Py_ssize_t length = bnd_plain_write(args, data, sizeof data);
    if (length < 0 || make_id(self, &message->message_id) < 0)
        return -1;
    message->flags = (uint32_t)(message->message_id & HUB_RPC_TREE_MASK) << HUB_RPC_TREE_SHIFT;
    if (self->closed || self->transport->transport == NULL)
        return -1;
    return hub_send(self->transport->transport, self->to, message, data, (uint64_t)length,
                    HUB_NOW) == 0
               ? 0
               : -1;
}

/* From whom it was asked: another peer may have guessed the id. */
static bool is_answer_to(const CallerObject *self, PyObject *frame, uint64_t id)
{
    const hub_frame *core = &((FrameObject *)frame)->frame;
    return core->message.channel == HUB_RPC_RESULT && core->message.message_id == id &&
           (self->to == HUB_TO_DEFAULT || core->peer_id == self->to);
}

/* Its value, if that lies in the frame and is plain: a new reference. NULL: Python is to look. */
static PyObject *simple_value(PyObject *frame)
{
    const hub_frame *core = &((FrameObject *)frame)->frame;
    if (core->slot.data != NULL || (core->message.flags & HUB_RPC_NOT_SIMPLE) != 0)
        return NULL;
    PyObject *value = bnd_plain_read(frame, (const char *)core->inline_data, core->length, NULL);
    if (value == NULL)
        PyErr_Clear(); /* Python meets the same, and says so */
    return value;
}

/* Python's from here on; still with the turn. */
static PyObject *hand_over(CallerObject *self, uint64_t id, PyObject *method, PyObject *frame,
                           bool counted)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (type != NULL) {
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
    }
    PyObject *number = PyLong_FromUnsignedLongLong(id);
    PyObject *call = number == NULL
                         ? NULL
                         : PyObject_CallFunctionObjArgs(self->adopt, number, method,
                                                        frame != NULL ? frame : Py_None,
                                                        error != NULL ? error : Py_None,
                                                        counted ? Py_True : Py_False, NULL);
    Py_XDECREF(number);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return call;
}

/* The answer to what was sent, or the Call that waits for it (*adopted). */
static PyObject *await_answer(CallerObject *self, uint64_t id, PyObject *method,
                              int64_t timeout_ns, bool counted, bool *adopted)
{
    PyObject *frame = bnd_transport_look(self->transport, self->inbox, timeout_ns, "collect");
    if (frame != NULL && !is_answer_to(self, frame, id)) {
        int rc = PyList_Append(self->inbox, frame);
        Py_CLEAR(frame);
        if (rc < 0) {
            *adopted = true;
            return hand_over(self, id, method, NULL, counted);
        }
    }
    PyObject *result = frame != NULL && !PyErr_Occurred() ? simple_value(frame) : NULL;
    if (result == NULL) {
        *adopted = true;
        result = hand_over(self, id, method, frame, counted);
    }
    Py_XDECREF(frame);
    return result;
}

PyObject *bnd_caller_exchange(PyObject *caller, PyObject *method, PyObject *args,
                              int64_t deadline_ns, bool counted, bool *adopted)
{
    CallerObject *self = (CallerObject *)caller;
    int64_t timeout_ns = HUB_TIMEOUT_NONE;
    *adopted = false;
    if (deadline_ns != 0) {
        timeout_ns = deadline_ns - hub_clock_ns();
        if (timeout_ns <= 0)
            Py_RETURN_NOTIMPLEMENTED;
    }
    if (self->turn == NULL || PyList_GET_SIZE(self->inbox) > 0 || !bnd_turn_take(self->turn))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *result = NULL;
    hub_message message;
    if (send_call(self, method, args, deadline_ns, &message) == 0)
        result = await_answer(self, message.message_id, method, timeout_ns, counted, adopted);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_NotImplemented);
    bnd_turn_give(self->turn);
    return result;
}

static PyObject *caller_call(CallerObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t deadline_ns;
    bool adopted;
    if (nargs != 3 || !PyTuple_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "call() takes a name, a tuple and a deadline");
    if (bnd_arg_deadline(args[2], &deadline_ns) < 0)
        return NULL;
    return bnd_caller_exchange((PyObject *)self, args[0], args[1], deadline_ns, true, &adopted);
}

static PyObject *caller_close(CallerObject *self, PyObject *Py_UNUSED(unused))
{
    self->closed = true;
    Py_RETURN_NONE;
}

static PyMethodDef caller_methods[] = {
    {"call", (PyCFunction)(void (*)(void))caller_call, METH_FASTCALL,
     PyDoc_STR("call($self, method, args, deadline, /)\n--\n\n"
               "Call and wait. What came back; NotImplemented: it is not so simple, and nothing was\n"
               "sent; what `adopt` made of it: it was sent, and its answer is still to be waited\n"
               "for. deadline: monotonic seconds, or None.")},
    {"close", (PyCFunction)caller_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nSend nothing more.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot caller_slots[] = {
    {Py_tp_doc, (void *)caller_doc},
    {Py_tp_init, caller_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, caller_dealloc},
    {Py_tp_traverse, caller_traverse},
    {Py_tp_clear, caller_clear},
    {Py_tp_methods, caller_methods},
    {0, NULL},
};

PyType_Spec bnd_caller_spec = {
    .name = "shmhub._core.Caller",
    .basicsize = sizeof(CallerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = caller_slots,
};
