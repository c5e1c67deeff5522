"""When recent SENDs came in; see send_times.pxd."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from chatcore_ext.durations cimport durations_add


cdef unsigned long long monotonic_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <unsigned long long>now.tv_sec * 1000000 + <unsigned long long>now.tv_nsec // 1000


# Sessions are random numbers and seqs count up, so the sends under way of one session lie side by side.
cdef inline SendTime* place_of(SendTimes* times, unsigned long long session, unsigned long long seq) noexcept nogil:
    return &times.times[(session + seq) & (N_SEND_TIMES - 1)]


cdef void send_taken(
    SendTimes* times, unsigned long long session, unsigned long long seq, unsigned long long now_us
) noexcept nogil:
    cdef SendTime* place = place_of(times, session, seq)
    # One that is sent again is measured from its first copy: its player has waited since.
    if place.seq and not place.is_acknowledged and now_us - place.taken_us < FORGOTTEN_US:
        return
    place.session = session
    place.seq = seq
    place.taken_us = now_us
    place.is_acknowledged = False


cdef void note(SendTimes* times, unsigned long long taken_us, bint is_delivery) noexcept nogil:
    if times.n_noted == N_NOTED:
        measure_noted(times)
    times.noted[times.n_noted].taken_us = taken_us
    times.noted[times.n_noted].is_delivery = is_delivery
    times.n_noted += 1


cdef void note_ack(SendTimes* times, unsigned long long session, unsigned long long seq) noexcept nogil:
    cdef SendTime* place = place_of(times, session, seq)
    if place.seq == seq and place.session == session and not place.is_acknowledged:
        place.is_acknowledged = True
        note(times, place.taken_us, False)


cdef void note_delivery(SendTimes* times, unsigned long long session, unsigned long long seq) noexcept nogil:
    cdef SendTime* place = place_of(times, session, seq)
    if place.seq == seq and place.session == session:
        note(times, place.taken_us, True)


cdef void measure_noted(SendTimes* times) noexcept nogil:
    cdef:
        unsigned long long now_us
        unsigned int i
    if times.n_noted == 0:
        return
    now_us = monotonic_us()
    for i in range(times.n_noted):
        durations_add(
            &times.delivery_latency if times.noted[i].is_delivery else &times.ack_latency,
            now_us - times.noted[i].taken_us,
        )
    times.n_noted = 0
