# Many tasks at once. Runs with one thread too, and as a program of its own with several.

using ImplicitAdjoints, LinearAlgebra, Random, Test
using ImplicitAdjoints: foreach_threaded

isdefined(@__MODULE__, :PROBLEMS) || include("problems.jl")
isdefined(@__MODULE__, :LAYERS) || include("implicit_problems.jl")

@testset "foreach_threaded" begin
    for n in (0, 1, 2, 3, 1000)
        seen = [Threads.Atomic{Int}(0) for _ in 1:n]
        @test foreach_threaded(i -> Threads.atomic_add!(seen[i], 1), n) === nothing
        @test all(s -> s[] == 1, seen)
    end
    for bad in (1, 2, 50)
        calls = Threads.Atomic{Int}(0)
        err = @test_throws DomainError foreach_threaded(100) do i
            Threads.atomic_add!(calls, 1)
            i == bad && throw(DomainError(i, "bad"))
            sleep(0.001)
        end
        @test err.value.val == bad
        @test calls[] < 100 || Threads.nthreads() == 1  # the rest is not begun
    end
    @test_throws DomainError foreach_threaded(i -> throw(DomainError(i)), 10)  # all fail
    # Inside itself
    total = Threads.Atomic{Int}(0)
    foreach_threaded(i -> foreach_threaded(j -> Threads.atomic_add!(total, i * j), 5), 5)
    @test total[] == 15^2
end

# `tasks` of them, each solving matrices from a few, some of them the same as others'.
function work_at_once(problems, tasks, rounds)
    patterns = map(pattern, problems)
    right = map(p -> ones(eltype(p.values), p.n), problems)
    answers = [sparse_solve(t, p.values, b) for (t, p, b) in zip(patterns, problems, right)]
    wrong = Threads.Atomic{Int}(0)
    @sync for task in 1:tasks
        Threads.@spawn for round in 1:rounds
            k = mod1(task + round, length(problems))
            scale = mod1(round, 3)
            x = sparse_solve(patterns[k], scale .* problems[k].values, right[k])
            x ≈ answers[k] ./ scale || Threads.atomic_add!(wrong, 1)
        end
    end
    return wrong[]
end

@testset "the same and different matrices at once" begin
    big = (problem("", laplacian(30), "spd"), problem("", laplacian(20), "general"))
    clear!()
    @test work_at_once((PROBLEMS..., big...), 8, 60) == 0
    # Nobody made a factor that somebody else had: 3 scales of each matrix
    @test counters().factorisations == 3 * (length(PROBLEMS) + 2)
    try
        limit_cache!(20_000)  # room for some of the small ones: factors come and go
        @test work_at_once((PROBLEMS..., big...), 8, 60) == 0
        limit_cache!(0)
        @test work_at_once(big, 8, 40) == 0
    finally
        limit_cache!(2^30)
        clear!()
    end
end

@testset "cleared while others work" begin
    p = problem("", laplacian(15), "spd")
    pat, b = pattern(p), ones(p.n)
    x = sparse_solve(pat, p.values, b)
    done = Threads.Atomic{Bool}(false)
    clearing = Threads.@spawn while !done[]
        clear!()
        counters()
        yield()
    end
    good = [Threads.@spawn(all(sparse_solve(pat, i .* p.values, b) ≈ x / i for i in 1:100))
            for _ in 1:4]
    @test all(fetch, good)
    done[] = true
    wait(clearing)
    clear!()
end

@testset "one symbolic analysis, used by all at once: $structure" for structure in
    ("general", "spd")

    p = problem("", laplacian(25), structure)
    pat, b = pattern(p), ones(p.n)
    clear!()
    answers = [Threads.@spawn(sparse_solve(pat, i .* p.values, b)) for i in 1:12]
    x = fetch(first(answers))
    @test all(fetch(answers[i]) ≈ x / i for i in 1:12)
    @test counters().analyses == 1 && counters().factorisations == 12
end

@testset "implicit functions, whose solutions come and go" begin
    layer = ImplicitRoot(banded; jacobian = band_pattern(20))
    wrong = Threads.Atomic{Int}(0)
    try
        limit_cache!(100_000)
        @sync for task in 1:8
            Threads.@spawn for k in 1:30
                p = mod1(k, 7) .* log_profile(20)
                z̄ = only(Pullback(layer, (false, true))(ones(20), p, ones(20)))
                layer(ones(20), p) ≈ exp.(p) && z̄ ≈ exp.(p) ||
                    Threads.atomic_add!(wrong, 1)
                task == 1 && k % 10 == 0 && clear!()
            end
        end
    finally
        limit_cache!(2^30)
        clear!()
    end
    @test wrong[] == 0
end
