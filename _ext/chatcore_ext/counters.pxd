"""What a hub counts: plain C integers that the loop thread adds to and a scrape reads."""

cdef enum:
    # One more than the largest error code; see error_codes.pxd.
    N_CODES = 512
    N_FRAME_TYPES = 256


# Totals since the start. All zero is a fresh one.
cdef struct Counters:
    unsigned long long bursts
    unsigned long long connections_accepted
    unsigned long long connections_refused      # over a limit of connections
    unsigned long long connections_refused_by_address  # of these: over a limit of their address
    unsigned long long half_open_gave_way       # without HELLO, to newer connections
    unsigned long long accept_pauses            # out of descriptors or memory
    unsigned long long receive_calls
    unsigned long long bytes_received
    unsigned long long send_calls
    unsigned long long sends_incomplete         # the kernel took less than it was given
    unsigned long long bytes_sent
    unsigned long long records                  # given to deliver
    unsigned long long records_malformed
    unsigned long long records_repeated         # later copies of one seen before
    unsigned long long messages_delivered       # records with at least one receiver here
    unsigned long long deliveries               # message x receiver
    unsigned long long deliveries_hidden        # of these: without content
    unsigned long long deliveries_left_out      # message x receiver, told later by a GAP
    unsigned long long gaps                     # GAP frames: a channel of a receiver that was behind
    unsigned long long signals_left_out         # signal x receiver that was behind
    unsigned long long signals_relayed          # signals with at least one receiver here
    unsigned long long signal_deliveries        # signal x receiver
    unsigned long long signals_dropped
    unsigned long long pings_dropped
    unsigned long long sends_accepted           # SENDs handed to Python
    unsigned long long acks
    unsigned long long sessions_expired
    unsigned long long[N_FRAME_TYPES] frames_received
    unsigned long long[N_CODES] refused         # REFUSED and FAILED frames by code
    unsigned long long[N_CODES] closed          # connections by the code they were closed with; 0: by the peer


cdef dict counters_as_dict(const Counters* counters)
