/* statistics.c - the core's counters as plain tuples and dicts. */
#include "state.h"

#include <string.h>

int bnd_list_add(PyObject *list, PyObject *value)
{
    if (value == NULL)
        return -1;
    int rc = PyList_Append(list, value);
    Py_DECREF(value);
    return rc;
}

int bnd_dict_add(PyObject *dict, const char *key, PyObject *value)
{
    if (value == NULL)
        return -1;
    int rc = PyDict_SetItemString(dict, key, value);
    Py_DECREF(value);
    return rc;
}

/* Names lie in shared memory: any bytes, perhaps without an end. */
static PyObject *name_of(const hub_peer_stat *peer)
{
    size_t length = strnlen(peer->name, sizeof peer->name);
    return PyUnicode_DecodeUTF8(peer->name, (Py_ssize_t)length, "backslashreplace");
}

static PyObject *class_tuple(const hub_class_stat *class)
{
    return Py_BuildValue("(KIIIIIIIIK)", (unsigned long long)class->slot_size, class->slots,
                         class->max_slots, class->backed, class->free, class->owned, class->in_ring,
                         class->shared, class->high_water, (unsigned long long)class->exhausted);
}

static PyObject *peer_tuple(const hub_peer_stat *peer)
{
    PyObject *name = name_of(peer);
    if (name == NULL)
        return NULL;
    return Py_BuildValue("(INsiIKKKKKK)", peer->peer_id, name, hub_peer_state_name(peer->state),
                         peer->pid, peer->owned, (unsigned long long)peer->sent,
                         (unsigned long long)peer->received, (unsigned long long)peer->bytes_sent,
                         (unsigned long long)peer->bytes_received,
                         (unsigned long long)peer->rings_rung, (unsigned long long)peer->waits);
}

static PyObject *class_list(const hub_stat *stat)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < stat->class_count; i++)
        if (bnd_list_add(list, class_tuple(&stat->classes[i])) < 0)
            Py_CLEAR(list);
    return list;
}

static PyObject *peer_list(const hub_stat *stat)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < stat->peer_count; i++)
        if (bnd_list_add(list, peer_tuple(&stat->peers[i])) < 0)
            Py_CLEAR(list);
    return list;
}

PyObject *bnd_statistics_dict(const hub_stat *stat)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    if (bnd_dict_add(dict, "size_classes", class_list(stat)) < 0 ||
        bnd_dict_add(dict, "memory_bytes", PyLong_FromUnsignedLongLong(stat->memory_bytes)) < 0 ||
        bnd_dict_add(dict, "reclaimed", PyLong_FromUnsignedLongLong(stat->reclaimed)) < 0 ||
        bnd_dict_add(dict, "violations", PyLong_FromUnsignedLongLong(stat->violations)) < 0 ||
        bnd_dict_add(dict, "deaths", PyLong_FromUnsignedLongLong(stat->deaths)) < 0 ||
        bnd_dict_add(dict, "detaches", PyLong_FromUnsignedLongLong(stat->detaches)) < 0 ||
        bnd_dict_add(dict, "peers", peer_list(stat)) < 0)
        Py_CLEAR(dict);
    return dict;
}

PyObject *bnd_statistics_peers(const hub_stat *stat)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < stat->peer_count; i++) {
        const hub_peer_stat *peer = &stat->peers[i];
        if (peer->peer_id == 0) /* the host itself */
            continue;
        PyObject *name = name_of(peer);
        PyObject *item = name == NULL ? NULL
                                      : Py_BuildValue("(INsiI)", peer->peer_id, name,
                                                      hub_peer_state_name(peer->state), peer->pid,
                                                      peer->epoch);
        if (bnd_list_add(list, item) < 0)
            Py_CLEAR(list);
    }
    return list;
}

PyObject *bnd_statistics_transport(const hub_transport_stat *stat)
{
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "sent", (unsigned long long)stat->sent, "received",
        (unsigned long long)stat->received, "bytes_sent", (unsigned long long)stat->bytes_sent,
        "bytes_received", (unsigned long long)stat->bytes_received, "rings_rung",
        (unsigned long long)stat->rings_rung, "waits", (unsigned long long)stat->waits, "spins",
        (unsigned long long)stat->spins, "spin_hits", (unsigned long long)stat->spin_hits);
}

PyObject *bnd_statistics_classes(const hub_config *config)
{
    uint32_t count = config->class_count <= HUB_CLASSES_MAX ? config->class_count : HUB_CLASSES_MAX;
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (uint32_t i = 0; tuple != NULL && i < count; i++) {
        const hub_class_config *class = &config->classes[i];
        PyObject *item = Py_BuildValue("(KII)", (unsigned long long)class->slot_size, class->slots,
                                       class->max_slots);
        if (item == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
    }
    return tuple;
}
