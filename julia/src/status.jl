"""
    Status

What became of a solve. The numbers are shared with `pyimplicit/_status.py`; 0 is success.
"""
@enum Status::Int32 begin
    CONVERGED = 0
    SINGULAR = 1
    NOT_POSITIVE_DEFINITE = 2
    NONFINITE = 3
    INACCURATE = 4
    MAX_STEPS_REACHED = 5
    DIVERGED = 6
    NOT_SYMMETRIC = 7
    INFEASIBLE = 8
    UNBOUNDED = 9
end

"""
    message(status::Status)

Causes (a), (b), … of a failed solve, and what to try.
"""
function message(status::Status)
    status == CONVERGED && return "the solve converged"
    status == SINGULAR && return "the matrix is singular to working precision: (a) no " *
        "Dirichlet condition fixes the constant (or a rigid motion): name one, or " *
        "ground one node; (b) an unknown appears in no equation; (c) a coefficient is " *
        "zero somewhere; (d) a Jacobian at an iterate: start elsewhere"
    status == NOT_POSITIVE_DEFINITE && return "the matrix was declared 'spd' but is not " *
        "positive definite: (a) a negative coefficient; (b) no Dirichlet condition; " *
        "(c) the matrix is indefinite or not symmetric: declare structure='symmetric' or " *
        "'general'"
    status == NONFINITE && return "NaN or infinity came up: (a) in what was given (a " *
        "matrix, a right-hand side, a first guess, parameters): look with " *
        "jax.config.update('jax_debug_nans', True); (b) in an iterate that ran away, or " *
        "where a Jacobian was singular: start elsewhere, or damp the solver"
    status == INACCURATE && return "the residual of a linear solve stayed above its " *
        "tolerance: (a) the matrix is too badly scaled or conditioned: rescale the " *
        "unknowns; (b) an iterative solver was stopped: raise its `max_steps`, or give " *
        "it a preconditioner"
    status == NOT_SYMMETRIC && return "the values of a symmetric pattern differ across " *
        "the diagonal: declare structure='general'"
    status == MAX_STEPS_REACHED && return "the largest number of steps was reached: (a) " *
        "it converges slowly: raise `max_steps`, or take another solver; (b) there is " *
        "no solution, or none near the first guess; (c) `rtol` and `atol` ask for more " *
        "than the precision gives"
    status == INFEASIBLE && return "no point satisfies all constraints (the multipliers " *
        "returned are a ray that proves it): (a) lb > ub somewhere; (b) contradictory " *
        "rows: drop some, or give them a slack variable with a penalty"
    status == UNBOUNDED && return "the objective has no lower bound on the feasible set " *
        "(the point returned is a ray along which it falls for ever): (a) a bound is " *
        "missing; (b) a sign of the objective is wrong"
    return "the iteration diverged: (a) it is no contraction: damp it, or take another " *
        "solver; (b) the first guess is too far: start closer"
end

"""
    SolveError(text)

A solve that failed; `text` says why and what to try.
"""
struct SolveError <: Exception
    text::String
end
Base.showerror(io::IO, err::SolveError) = print(io, err.text)
