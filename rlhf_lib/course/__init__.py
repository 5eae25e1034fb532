"""The course: exercises and solutions rendered from the library, checkers that name mistakes, progress. Light to import."""


class NotAttempted(NotImplementedError):
    """What a stub raises until it is filled in; names the exercise and where the chapter treats it."""

    def __init__(self, exercise: str, where: str):
        super().__init__(f"exercise {exercise} is not filled in yet; it is explained in {where}")
        self.exercise, self.where = exercise, where
