# How many threads may work on one call, the caller included. Under Python the main Julia
# thread is parked and the caller is a thread of XLA's, so this is `Threads.nthreads()` in
# both cases: all of Julia's in a Julia session; all but one, and the caller, under Python.
workers() = Threads.nthreads()

"""
    foreach_threaded(f, n)

Call `f(i)` for `i` in `1:n`, on several threads where there are several. Work is handed
out one `i` at a time; the caller works too, so that nothing waits for a parked thread.
After a failure no `i` is begun; it is thrown when those under way are done.
"""
function foreach_threaded(f::F, n::Integer) where {F}
    helpers = min(n, workers()) - 1
    helpers <= 0 && return foreach(f, 1:n)
    next = Threads.Atomic{Int}(1)
    work() =
        try
            while (i = Threads.atomic_add!(next, 1)) <= n
                f(i)
            end
        catch
            next[] = n + 1
            rethrow()
        end
    tasks = [Threads.@spawn(work()) for _ in 1:helpers]
    try
        work()
    finally
        foreach(wait_quietly, tasks)
    end
    for task in tasks
        istaskfailed(task) && throw(task.result)
    end
    return nothing
end

wait_quietly(task) =
    try
        wait(task)
    catch
        # Its failure is thrown later, as itself and not as a TaskFailedException.
    end
