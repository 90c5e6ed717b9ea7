# A residual is enough: a stirred tank with the reactions A → B → C and 2A → D, at steady
# state (van de Vusse 1964, doi:10.1016/0009-2509(64)85109-5). No solver and no derivatives
# are written here.
module Tank

using ImplicitAdjoints: ImplicitRoot

"""
    balances(c, k, feed, dilution)

What is left of the concentrations `c` of A and B [mol/L] in an hour [mol/L/h].
`k`: rates of A → B [1/h], B → C [1/h], 2A → D [L/mol/h]. `feed`: of A [mol/L].
`dilution`: volumes that pass in an hour [1/h].
"""
function balances(c, k, feed, dilution)
    a, b = c
    return [
        dilution * (feed - a) - k[1] * a - k[3] * a^2,
        -dilution * b + k[1] * a - k[2] * b,
    ]
end

const steady = ImplicitRoot(balances)

end
