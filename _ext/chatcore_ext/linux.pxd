"""What Linux has and Cython's own declarations lack: epoll and timers as descriptors. Declares, and defines nothing."""

from posix.time cimport itimerspec

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        unsigned long long u64
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLHUP
        EPOLLERR
        EPOLLET
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event) noexcept
    int epoll_wait(int epoll, epoll_event* events, int size, int timeout) noexcept

cdef extern from "<sys/timerfd.h>" nogil:
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags) noexcept
    int timerfd_settime(int descriptor, int flags, const itimerspec* value, itimerspec* old) noexcept
