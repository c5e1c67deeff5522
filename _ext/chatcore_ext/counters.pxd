"""What a hub counts: plain C integers that the loop thread adds to and a scrape reads."""

cdef extern from *:
    """
    #define LEADING_ZEROS_32(value) __builtin_clz(value)
    """
    int LEADING_ZEROS "LEADING_ZEROS_32"(unsigned int value) noexcept nogil

cdef enum:
    # One more than the largest error code; see error_codes.pxd.
    N_CODES = 512
    N_FRAME_TYPES = 256
    N_SEND_CALL_BUCKETS = 12   # frames in a send call: up to 1, 2, 4 and so on, to 1,024, and more


# Totals since the start. All zero is a fresh one.
cdef struct Counters:
    unsigned long long bursts
    unsigned long long connections_accepted
    unsigned long long connections_refused      # over a limit of connections
    unsigned long long connections_refused_by_address  # of these: over a limit of their address
    unsigned long long connections_refused_by_pending  # over the bytes unsent to all
    unsigned long long half_open_gave_way       # without HELLO, to newer connections
    unsigned long long accept_pauses            # out of descriptors or memory
    unsigned long long receive_calls
    unsigned long long bytes_received
    unsigned long long frames_in_send_calls     # frames that were new in the turn of the call
    unsigned long long[N_SEND_CALL_BUCKETS] send_calls_by_frames  # all send calls are in one of them
    unsigned long long sends_incomplete         # the kernel took less than it was given
    unsigned long long bytes_sent
    unsigned long long flushes_held             # of a connection, by the flush window
    unsigned long long records                  # given to deliver
    unsigned long long records_malformed
    unsigned long long records_repeated         # later copies of one seen before
    unsigned long long messages_delivered       # records with at least one receiver here
    unsigned long long deliveries               # message x receiver
    unsigned long long deliveries_hidden        # of these: without content
    unsigned long long deliveries_left_out      # message x receiver, told later by a GAP
    unsigned long long gaps                     # GAP frames: a channel of a receiver that was behind
    unsigned long long receivers_paused         # times that a receiver fell so far behind
    unsigned long long backlogs_refused         # a receiver took too little while too many bytes were unsent to all
    unsigned long long signals_coalesced        # signal x receiver that lagged: kept to be told later
    unsigned long long signals_left_out         # of these: never told; and those that there was no room to keep
    unsigned long long signals_relayed          # signals with at least one receiver here
    unsigned long long signal_deliveries        # signal x receiver
    unsigned long long signals_dropped
    unsigned long long pings_dropped
    unsigned long long sends_accepted           # SENDs handed to Python
    unsigned long long acks
    unsigned long long sessions_expired
    unsigned long long[N_FRAME_TYPES] frames_received
    # Those that were made for somebody; of types without a counter of their own above.
    unsigned long long[N_FRAME_TYPES] frames_sent
    unsigned long long[N_CODES] refused         # REFUSED and FAILED frames by code
    unsigned long long[N_CODES] closed          # connections by the code they were closed with; 0: by the peer


# A send call with so many frames. Runs once for each flush of a connection, so there is no loop here.
cdef inline void count_frames_of_send(Counters* counters, unsigned int n_frames) noexcept nogil:
    cdef int bucket = 0 if n_frames <= 1 else 32 - LEADING_ZEROS(n_frames - 1)
    counters.frames_in_send_calls += n_frames
    counters.send_calls_by_frames[min(bucket, <int>N_SEND_CALL_BUCKETS - 1)] += 1


cdef dict counters_as_dict(const Counters* counters)
# As durations.pyi, Snapshot.
cdef tuple send_calls_as_tuple(const Counters* counters)
